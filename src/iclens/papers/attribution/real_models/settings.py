"""Settings of the study on real models: the model, the data, the methods, and how many prompts."""

from __future__ import annotations

from dataclasses import dataclass

from iclens.errors import UserError
from iclens.lens.scores.method import ATTRIBUTIONS
from iclens.papers.attribution.real_models.claims import Split
from iclens.recipes.settings import chosen, option

WITHIN_SEVEN = (
    *("gradient_step", "path", "knock_out", "influence", "influence_mirrored", "shares_2"),
    "influence_knock_out",
    *("influence_halves", "influence_halves_2", "factorial", "influence_deletions"),
    *("attention_weights", "attention_rollout", "gradient_x_input", "gradient_norm", "sensitivity", "detail"),
)
"""Scores of at most 7 passes, whatever the number of demonstrations."""

MORE = (
    *("influence_mirrored_4", "hybrid_8", "hybrid_16", "factorial_12", "rerun"),
    *("lasso_margin_8", "lasso_margin_16", "lasso_margin_32", "lasso_margin", "lasso_margin_128", "lasso", "random"),
)
LIGHT = (
    "gradient_step",
    "influence",
    "influence_halves",
    "influence_halves_2",
    "attention_weights",
    "detail",
    "random",
)
"""Of few passes, for studies of many prompts."""

CORE = (
    *LIGHT,
    *("factorial", "influence_deletions", "factorial_12", "rerun"),
    *("lasso_margin_8", "lasso_margin_16", "lasso_margin_32", "lasso_margin"),
)
"""What the comparison turns on, for a run of an hour or two."""

QUICK = (
    *LIGHT,
    "influence_mirrored",
    "influence_knock_out",
    "knock_out",
    "factorial",
    "influence_deletions",
    "factorial_12",
)
"""What a choice within 4.5 or 12 passes is made among."""

OF_LABELS = ("label_surprise", "label_surprise_orders", "label_doubt", "detail_self")
USUAL = (*WITHIN_SEVEN, "shares", "masked", *MORE)
HEAVY = ("integrated_gradients", "shapley_sampling", *OF_LABELS)
LONG = 64
"""More demonstrations than this are many."""


@dataclass(frozen=True)
class RealSettings:
    """The model, the data, the methods, and how many prompts.

    Raises:
        UserError: an unknown method, counts that do not fit, or a task both to tune on and to report.
    """

    model: str = chosen("smollm2", "a name that `iclens explain` takes")
    data: str = option("", "the folder of the data")
    tuning: tuple[str, ...] = chosen(
        ("antonym", "sentiment", "country-capital", "present-past", "english-spanish", "product-company"),
        "the default is chosen on them",
    )
    reporting: tuple[str, ...] = chosen(
        ("english-french", "singular-plural", "fruit_v_animal_3", "sst2"), "looked at after the rule was written"
    )
    sizes: tuple[int, ...] = chosen((8, 32), "demonstrations of a prompt")
    prompts: tuple[int, ...] = chosen((10, 5), "a task, for each of the sizes")
    tuned: tuple[int, ...] = chosen((), "prompts of a tuning task, for each of the sizes, where they are not as many")
    long_size: int = chosen(128, "demonstrations of the longest prompts")
    long_tasks: tuple[str, ...] = chosen(("english-french", "singular-plural"), "reporting tasks with prompts so long")
    long_prompts: int = chosen(2, "a task of the longest prompts")
    methods: tuple[str, ...] = chosen(USUAL, "registered scores, those that need a further library left out")
    heavy: tuple[str, ...] = chosen(HEAVY, "scores of many passes or of labels, at the first size")
    n_heavy: int = chosen(4, "prompts a task for them, the last ones")
    methods_tuning: tuple[str, ...] = chosen(USUAL, "on the tasks to tune on")
    methods_long: tuple[str, ...] = chosen((*WITHIN_SEVEN, "shares", *MORE), "at the longest prompts")
    methods_labels: tuple[str, ...] = chosen(
        (*WITHIN_SEVEN, "shares", "influence_mirrored_4", "rerun", "random", *OF_LABELS), "for wrong labels"
    )
    methods_settling: tuple[str, ...] = chosen(
        (*WITHIN_SEVEN, "shares", "masked", *MORE, *OF_LABELS), "for settling ones"
    )
    methods_curation: tuple[str, ...] = chosen(
        ("gradient_step", "path", "influence", "influence_halves", "detail", *OF_LABELS), "for curation"
    )
    stable: tuple[str, ...] = chosen(
        (
            "gradient_step",
            "path",
            "knock_out",
            "influence",
            "influence_mirrored",
            "influence_halves_2",
            "factorial",
            "shares_2",
            "attention_weights",
        ),
        "scored once more in another order",
    )
    n_subsets: tuple[int, ...] = chosen((64, 32, 32), "random subsets for LDS, for each of the sizes and the longest")
    n_ceiling: int = chosen(4, "prompts a task with masks on the same subsets, the last ones of the first size")
    label_tasks: tuple[str, ...] = chosen(("sentiment", "sst2"), "the first to tune on")
    n_pools: int = chosen(12, "pools of 20 with 4 wrong labels, a task")
    n_label_queries: int = chosen(6, "labelled queries that a pool is scored for")
    families: tuple[str, ...] = chosen(
        ("verb_object", "linear_or_distinct", "tense_article"), "of settling demonstrations; the first to tune on"
    )
    n_settling: int = chosen(25, "prompts a family that the model gets right")
    n_curation: int = chosen(3, "pools of 20 with 5 wrong labels")
    n_validation: int = chosen(20, "queries that curation scores for")
    n_test: int = chosen(120, "queries that its accuracy is of")
    seed: int = chosen(0, "of prompts, methods and subsets")

    def __post_init__(self) -> None:
        for name in (*self.methods, *self.methods_tuning, *self.heavy, *self.methods_long, *self.methods_labels):
            _ = ATTRIBUTIONS[name]
        for name in (*self.methods_settling, *self.methods_curation, *self.stable):
            _ = ATTRIBUTIONS[name]
        counts = {len(self.prompts), len(self.tuned) or len(self.sizes)}
        if counts != {len(self.sizes)} or len(self.n_subsets) != len(self.sizes) + 1:
            raise UserError(
                "prompts, and tuned if given, have a number for each of the sizes, and n_subsets one more for the "
                "longest prompts."
            )
        if min((*self.sizes, self.long_size)) < 2 or min(self.n_subsets) < 2:
            raise UserError("a size is at least 2 demonstrations, and a rank correlation needs at least 2 subsets.")
        both = set(self.tuning) & set(self.reporting)
        if both or not set(self.long_tasks) <= set(self.reporting):
            raise UserError("a task is to tune on or to report, and the longest prompts are of tasks to report.")

    @property
    def split(self) -> Split:
        """What may be looked at, and what reports."""
        return Split(self.tuning, self.reporting, self.label_tasks, self.families)

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks of pairs."""
        return tuple(dict.fromkeys((*self.tuning, *self.reporting, *self.label_tasks)))
