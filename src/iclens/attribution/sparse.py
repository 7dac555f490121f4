"""Few strong sources among many: a sparse model of balanced real deletions, or the influence corrected by a few.

Where a context answers a question, few of its sources matter. With a Lasso in place of differences of means, a balanced
design of real deletions (see `factorial`) needs fewer runs. Where even these do not fit into the passes, the influence
says who matters, and the prompt and a few real deletions correct it.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.attribution.factorial import SOME_PASSES
from iclens.attribution.lasso import fit
from iclens.attribution.shared.correction import corrected, scaled
from iclens.attribution.shared.designs import design
from iclens.lens.lens import Lens
from iclens.lens.read.margin import logit_of
from iclens.lens.scores.deletions import Outcome
from iclens.lens.scores.influence import HALF
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted

ENOUGH = 1.2
"""Runs over sources, from which on the Lasso needs no help."""

OF_INFLUENCE = 2.0
"""Passes of the influence, forward and backward."""


def sparse_effects(keep: Bool[Tensor, "n_runs n"], outcome: Outcome, n_tokens: int) -> Float[Tensor, " n"]:
    """Fit a Lasso to the margins of some runs; where the margin is log p, to its logit, which is nearer to a sum.

    The effects on the logit are scaled back to log p by least squares: margins ≈ c + a ⟨effects, keep⟩, a ≥ 0.

    Args:
        keep: which sources each run has.
        outcome: the model's output for each run.
        n_tokens: tokens of the answer; outputs are divided by it for the fit.
    """
    margins, log_ps = outcome.margins.double(), outcome.log_probabilities.double()
    if not torch.allclose(margins, log_ps):
        return fit(keep, margins, n_tokens)
    effects = fit(keep, logit_of(log_ps), n_tokens)
    return scaled(effects, keep, margins)[0] * effects


def score(lens: Lens, generator: torch.Generator, *, passes: float) -> Scores:
    """A Lasso of as many balanced deletions as fit into the passes, or the influence with those that fit beside it."""
    n, n_tokens = lens.n_demonstrations, max(1, len(lens.readout.answer_ids))
    whole = torch.ones(1, n, dtype=torch.bool)

    def cost(keep: Tensor) -> float:
        return lens.passes.share_of(0, lens.shortened(keep)) if len(keep) else 0.0

    def values() -> Tensor:
        keep = design(n, passes, cost, generator)
        if len(keep) >= min(ENOUGH * n, 1 << n.bit_length()):
            return sparse_effects(keep, lens.deletions(keep), n_tokens)
        influence = lens.influences(torch.full((1, n), HALF, dtype=torch.float64))[0]
        keep = design(n, passes - OF_INFLUENCE, lambda some: cost(torch.cat([some, whole])), generator)
        if not len(keep):
            return influence
        keep = torch.cat([keep, whole])
        return corrected(influence, keep, lens.deletions(keep).margins)

    return counted(lens, values)


ATTRIBUTIONS.register("sparse")(partial(score, passes=SOME_PASSES))
