"""Ren & Liu's open question: does the construction of the negative samples matter?"""

from __future__ import annotations

from typing import ClassVar

import torch

from iclens.papers.ren_liu_2024.variant_study import NORMAL, Row, VariantSettings, VariantStudy
from iclens.recipes.best_of_many import over_seeds
from iclens.recipes.contract import Preset, recipe
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

_PAPER = "Ren & Liu 2024"

MATTERS = Claim(
    "The construction of the negatives matters: at one strength, some train to a lower error than others.",
    f"{_PAPER}, what the paper leaves open: the choice and construction of negatives",
    "asked",
)
LOWEST = Claim(
    "The tokens with the lowest attention scores, the paper's choice, are better negatives than random tokens.",
    f"{_PAPER} chooses them; the comparison is ours",
    "asked",
)
BEYOND = Claim(
    "Negatives that help, help beyond the change of scale that they bring.",
    "ours: the paper has no controls",
    "asked",
)

_BETA = 0.5


def _negative(construction: str, **options: object) -> Row:
    return Row("constructions", "negative", {"n_negatives": 3, "beta": _BETA, "construction": construction, **options})


@recipe("ren-liu-negatives")
class NegativeConstructions(VariantStudy):
    """Negative attention with three negatives and β = 0.5, made in six ways; otherwise as in Fig. 3, right.

    `lowest`: the tokens with the lowest attention scores (the paper's). `hardest`: those with the highest, the first
    left out. `dissimilar`: keys least like the query's own. `random`: random tokens. `noise`: noise vectors. `learned`:
    vectors that are trained with the layer. Each for negatives of queries, and the first also for negatives of keys.
    """

    title = "Six constructions of negative samples"
    reference = f"{_PAPER} (arXiv 2310.13220), open question"
    claims = (MATTERS, LOWEST, BEYOND)
    quick = Preset(VariantSettings(tasks=("linear", "classes"), steps_per_epoch=4, batch=32), seconds=90)
    paper = Preset(VariantSettings(), seconds=1000)
    rows: ClassVar = {
        "normal": NORMAL,
        "lowest": _negative("lowest"),
        "lowest, of keys": Row("constructions", "negative", {"n_negatives": 3, "beta": _BETA, "selection": "key"}),
        "hardest": _negative("hardest"),
        "dissimilar": _negative("dissimilar"),
        "random": _negative("random"),
        "noise": _negative("noise"),
        "learned": _negative("learned"),
        "scale 0.5": Row("control", "scale-matched", {"strength": _BETA}),
    }

    def check(self, table: Table, settings: VariantSettings) -> list[Verdict]:
        """Differences between constructions, paired by seed."""
        spreads, wins, tasks, better = [], [], [], []
        n_tasks = len(settings.tasks)
        for task in settings.tasks:
            errors = self.errors(table, task)
            made = {row: values for row, values in errors.items() if self.rows[row].variant == "negative"}
            means = {float(values.mean()): row for row, values in made.items()}
            best, worst = means[min(means)], means[max(means)]
            base = errors["normal"].mean()
            # The best and the worst could have been any two, on any task.
            n_pairs = len(made) * (len(made) - 1) // 2
            spread = over_seeds(torch.from_numpy(100 * (made[worst] - made[best]) / base), n_pairs * n_tasks)
            spreads.append(f"{task}: {best} is {spread:.1f} % of normal's error below {worst}")
            gain = over_seeds(torch.from_numpy(100 * (made["random"] - made["lowest"]) / base), n_tasks)
            wins.append(f"{task}: {gain:.1f} % of normal's error below random")
            if spread.low > 0:
                tasks.append(task)
            if gain.low > 0:
                better.append(task)
        return [
            MATTERS.judged(
                bool(tasks),
                "; ".join(spreads),
                "the 95 % interval of the difference between the best and the worst construction, paired by seed and "
                "corrected for all pairs of constructions and all tasks (Bonferroni), lies above 0 on at least one "
                "task",
                "" if len(tasks) == n_tasks else f"the task is {' or '.join(tasks)}",
            ),
            LOWEST.judged(
                bool(better),
                "; ".join(wins),
                "the 95 % interval of the gain over random tokens, paired by seed and corrected for all tasks "
                "(Bonferroni), lies above 0 on at least one task",
                "" if len(better) == n_tasks else f"the task is {' or '.join(better)}",
            ),
            self.beyond(BEYOND, table, settings),
        ]
