"""Settings of the study of contexts: the model, the data, the methods, and how many prompts."""

from __future__ import annotations

from dataclasses import dataclass

from iclens.errors import UserError
from iclens.lens.scores.method import ATTRIBUTIONS
from iclens.papers.attribution.contexts.cases import PASSAGES
from iclens.papers.attribution.contexts.claims import FEWER, MORE, OURS, Split
from iclens.papers.attribution.contexts.facts import RELATIONS
from iclens.recipes.settings import chosen, option

LIGHT = (*OURS, "gradient_step", "attention_weights", "random")
"""For prompts whose documents are only ranked."""

LONG = (
    *OURS,
    *("influence_halves", "shares_2", "factorial_12"),
    *("gradient_step", "attention_weights", "gradient_norm", FEWER, MORE, "random"),
)
USUAL = (*LONG, "factorial", "rerun")


@dataclass(frozen=True)
class ContextSettings:
    """The model, the data, the methods, and how many prompts.

    Raises:
        UserError: an unknown task or method, counts that do not fit, or a task both to tune on and to report.
    """

    model: str = chosen("smollm2", "a name that `iclens explain` takes")
    data: str = option("", "the folder of the data, for passages")
    tuning: tuple[str, ...] = chosen(("author", "instrument", "rte-train"), "the score is chosen on them")
    reporting: tuple[str, ...] = chosen(
        ("headquarters", "currency", "birthplace", "rte-dev"), "looked at after the rule was written"
    )
    sizes: tuple[int, ...] = chosen((10, 30, 100), "sources of a prompt")
    tuned: tuple[int, ...] = chosen((4, 2, 0), "prompts a tuning task, for each of the sizes")
    prompts: tuple[int, ...] = chosen((10, 5, 2), "prompts a reporting task, for each of the sizes")
    ranked: tuple[int, ...] = chosen((30, 30, 5), "prompts a reporting relation whose documents are only ranked")
    n_subsets: tuple[int, ...] = chosen((64, 32, 32), "random subsets for LDS, for each of the sizes")
    methods: tuple[str, ...] = chosen(USUAL, "registered scores")
    methods_long: tuple[str, ...] = chosen(LONG, "from `long` sources on")
    methods_ranked: tuple[str, ...] = chosen(LIGHT, "of prompts whose documents are only ranked")
    long: int = chosen(100, "sources of a long prompt")
    most_passages: int = chosen(100, "sources of a context of passages at most, which are longer than facts")
    seed: int = chosen(0, "of prompts, methods and subsets")

    def __post_init__(self) -> None:
        for name in (*self.methods, *self.methods_long, *self.methods_ranked):
            _ = ATTRIBUTIONS[name]
        known = (*RELATIONS, *PASSAGES)
        for task in self.tasks:
            if task not in known:
                raise UserError(f"there is no task {task!r}: there are {', '.join(known)}.")
        counts = {"tuned": self.tuned, "prompts": self.prompts, "ranked": self.ranked, "n_subsets": self.n_subsets}
        for name, given in counts.items():
            if len(given) != len(self.sizes):
                raise UserError(f"{name} has {len(given)} numbers for {len(self.sizes)} sizes: give one for each.")
        if min(self.sizes) < 2 or min(self.n_subsets) < 2:
            raise UserError("a size is at least 2 sources, and a rank correlation needs at least 2 subsets.")
        if set(self.tuning) & set(self.reporting):
            raise UserError("a task is to tune on or to report.")

    @property
    def split(self) -> Split:
        """What may be looked at, and what reports."""
        return Split(self.tuning, self.reporting)

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks."""
        return (*self.tuning, *self.reporting)
