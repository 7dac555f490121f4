"""The rule by which real models choose the default score.

Written before the reporting tasks were run: **the default is the score of the best mean LDS on the tuning tasks, over
all tasks and sizes that were tuned on, among scores of at most 4.5 passes**, forward and backward ones together. A
score counts that scores the demonstrations of any prompt without being told labels, and that is no control.
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
    *("influence_halves", "influence_halves_2", "factorial", "factorial_12"),
    *("shares_2", "shares", "hybrid_8", "hybrid_16", PAIRS),
)


def default_score(table: Table, tuning: Sequence[str]) -> str | None:
    """The score that the rule chooses; None where nothing was tuned."""
    return next(iter(ranked(of_tasks(table, tuning, study="removal"), CHEAP)), None)
