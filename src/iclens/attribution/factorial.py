"""Main effects of a two-level factorial design: what a demonstration adds, over balanced halves of the others.

Where passes do not suffice for as many runs as demonstrations, it is the influence, corrected by as many runs as fit.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from iclens.attribution.influence_deletions import corrected_influence
from iclens.attribution.shared.designs import affordable, main_effects
from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted

PASSES = 4.5
"""What the cheap one may cost, in passes over the prompt."""

SOME_PASSES = 6.0
MORE_PASSES = 12.0

ENOUGH = 1.5
"""Runs over demonstrations, from which on effects are distinguished from each other without help."""

INFLUENCE = 3.0
"""Passes of the prompt itself and of its influence, forward and backward."""


def score(lens: Lens, generator: torch.Generator, *, passes: float) -> Scores:
    """Main effects within a number of passes, or the influence corrected by what fits beside it."""
    n = lens.n_demonstrations

    def values() -> Tensor:
        keep = affordable(lens, passes, generator)
        if len(keep) >= min(ENOUGH * n, 1 << n.bit_length()):
            return main_effects(keep, lens.deletions(keep).margins)
        return corrected_influence(lens, generator, passes - INFLUENCE)

    return counted(lens, values)


ATTRIBUTIONS.register("factorial")(partial(score, passes=PASSES))
ATTRIBUTIONS.register("factorial_6")(partial(score, passes=SOME_PASSES))
ATTRIBUTIONS.register("factorial_12")(partial(score, passes=MORE_PASSES))
