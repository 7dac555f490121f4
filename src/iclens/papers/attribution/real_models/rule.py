"""The rule by which real models choose the default score.

Written before the reporting tasks were run: **the default for prompts of a size is the score of the best mean LDS on
the tuning tasks at that size, among scores of at most 4.5 passes**, forward and backward ones together; at a size that
was not tuned on, the choice of the nearest one below. A score counts that scores the demonstrations of any prompt
without being told labels, and that is not a control.
"""

from __future__ import annotations

from collections.abc import Sequence

from iclens.papers.attribution.comparing import of_tasks, ranked
from iclens.papers.attribution.removal import PAIRS
from iclens.recipes.table import Table

CHEAP = 4.5
"""Passes that the default may cost."""

OURS = (
    *("gradient_step", "path", "knock_out", "influence", "influence_mirrored", "influence_mirrored_4"),
    "influence_knock_out",
    *("influence_halves", "influence_halves_2", "factorial", "influence_deletions", "factorial_12"),
    *("shares_2", "shares", "hybrid_8", "hybrid_16", PAIRS),
)


def tuned(table: Table, tuning: Sequence[str], size: int) -> Table:
    """The rows of the tuning tasks at a size, or at the nearest one below, or above where there is none below."""
    rows = of_tasks(table, tuning, study="removal")
    sizes = sorted(int(str(one)) for one in rows.unique("size")) if len(rows) else []
    below = [one for one in sizes if one <= size]
    return rows.where(size=below[-1] if below else sizes[0]) if sizes else rows


def default_score(table: Table, tuning: Sequence[str], size: int) -> str | None:
    """Return the score that the rule chooses for prompts of a size; None where nothing was tuned."""
    return next(iter(ranked(tuned(table, tuning, size), CHEAP)), None)
