"""Shares: the influence integrated from no demonstration to all, which sums to what the demonstrations change."""

from __future__ import annotations

import torch

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted


@ATTRIBUTIONS.register("shares")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """∫₀¹ ∂M/∂w_i (t, …, t) dt, by as many weights t as the gap asks for."""
    return counted(lens, lambda: lens.by_demonstration(lens.shares().by_token))
