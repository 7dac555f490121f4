"""Shares: the influence integrated from no demonstration to all, which sums to what the demonstrations change."""

from __future__ import annotations

import torch

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores


@ATTRIBUTIONS.register("shares")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """∫₀¹ ∂M/∂w_i (t, …, t) dt, by as many weights t as the gap asks for."""
    before = lens.passes.cost
    values = lens.by_demonstration(lens.shares().by_token)
    after = lens.passes.cost
    return Scores(values, after.forward_passes - before.forward_passes, after.backward_passes - before.backward_passes)
