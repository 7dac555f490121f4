"""Settings of the study of modified attention on real models: the model, the data, the grid and the fine-tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass

from iclens.errors import UserError
from iclens.recipes.settings import chosen, option, stated

GROUPS = ("all", "first", "middle", "last")
"""All layers, and the thirds of them."""

MAPS = {"g1": ("g1",), "g2": ("g2",), "g1&g2": ("g1", "g2")}
"""What augmentation augments: values, keys, or both."""

TRAINED = ("attention", "all")


@dataclass(frozen=True)
class ModifiedSettings:
    """The model, the data, the grid of modifications, and the fine-tuning.

    Raises:
        UserError: an unknown group of layers or map, numbers that do not fit, or a task both trained on and asked.
    """

    model: str = chosen("smollm2", "a name that `iclens explain` takes")
    data: str = option("", "the folder of the data")
    tasks: tuple[str, ...] = chosen(
        ("sst2", "ag_news", "cb", "antonym", "country-capital", "present-past", "singular-plural"),
        "asked; none of them is trained on",
    )
    n_sets: int = chosen(8, "sets of demonstrations a task; a choice is made on the others than it is reported on")
    shots: int = chosen(8, "demonstrations of a set")
    n_queries: int = chosen(16, "queries of a set, which share its demonstrations")
    most_characters: int = chosen(10_000, "of an input; pairs with longer ones are left out")
    alphas: tuple[float, ...] = chosen(
        (-0.5, -0.1, -0.02, 0.02, 0.1, 0.5), "of regularised attention; one strength, 0.5, is legible in the paper"
    )
    betas: tuple[float, ...] = stated((0.1, 0.5), "Table 1: the strengths of negative attention")
    n_negatives: tuple[int, ...] = stated((1, 3), "Table 1: negatives of a query")
    layers: tuple[str, ...] = chosen(GROUPS, "groups of layers that are modified, the others are left as they are")
    training_tasks: tuple[str, ...] = chosen(
        ("sentiment", "english-spanish", "english-french", "country-currency", "product-company"),
        "few-shot prompts to fine-tune on",
    )
    n_seeds: int = chosen(3, "fine-tunings of every attention; a seed has its own prompts")
    n_sets_tuned: int = chosen(8, "of the sets, those that a fine-tuned model is asked")
    tuned_strengths: tuple[float, ...] = chosen((0.1, 0.5), "of regularised and negative attention, fine-tuned")
    tuned_maps: tuple[str, ...] = chosen(("g1", "g2", "g1&g2"), "what augmentation augments: values, keys, both")
    tuned_layers: tuple[str, ...] = chosen(("all",), "groups of layers, fine-tuned")
    hidden: int = chosen(8, "width of an augmentation's adapter")
    steps: int = chosen(100, "of a fine-tuning")
    batch: int = chosen(2, "few-shot prompts a step")
    learning_rate: float = chosen(1e-4, "AdamW's highest, the same for every attention")
    trained: str = chosen("attention", "weights of the attention layers with what a variant adds; or all")
    seed: int = chosen(0, "of the prompts")

    def __post_init__(self) -> None:
        for name, known in (("layers", GROUPS), ("tuned_layers", GROUPS), ("tuned_maps", tuple(MAPS))):
            unknown = [one for one in getattr(self, name) if one not in known]
            if unknown or not getattr(self, name):
                named = repr(unknown[0]) if unknown else "nothing"
                raise UserError(f"{name} holds {named}: give one or more of {', '.join(known)}.")
        for name in ("alphas", "betas", "tuned_strengths"):
            wrong = [one for one in getattr(self, name) if not math.isfinite(one) or one == 0]
            if wrong or not getattr(self, name):
                named = f"{wrong[0]:g}" if wrong else "nothing"
                raise UserError(f"{name} holds {named}: give finite strengths other than 0, which is plain attention.")
        counts = ("shots", "n_queries", "most_characters", "n_seeds", "hidden", "steps", "batch")
        for name in counts:
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: it must be at least 1.")
        if not self.n_negatives or min(self.n_negatives) < 1:
            raise UserError("n_negatives holds numbers of negatives, each at least 1.")
        if self.n_sets < 2 or not 2 <= self.n_sets_tuned <= self.n_sets:
            raise UserError(
                "n_sets is at least 2, since one set chooses for another, and n_sets_tuned from 2 to n_sets."
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(f"learning_rate={self.learning_rate}: it must be positive.")
        if self.trained not in TRAINED:
            raise UserError(f"trained is {self.trained!r}: give one of {', '.join(TRAINED)}.")
        if not self.tasks or not self.training_tasks:
            raise UserError("tasks and training_tasks name at least one task each.")
        both = sorted(set(self.tasks) & set(self.training_tasks))
        if both:
            raise UserError(
                f"the task {both[0]} is both in tasks and in training_tasks: what is asked is not trained on."
            )

    @property
    def all_tasks(self) -> tuple[str, ...]:
        """What is read of the data."""
        return (*self.tasks, *self.training_tasks)
