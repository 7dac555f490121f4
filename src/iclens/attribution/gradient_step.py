"""The gradient step of the dual models, direct to the margin: one forward pass."""

from __future__ import annotations

import torch

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores


@ATTRIBUTIONS.register("gradient_step")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """Sum over layers, heads and a demonstration's tokens of their direct contribution to the margin.

    Source: Ren & Liu 2024, Theorem 3.1; `iclens.lens.scores.gradient_step`.
    """
    return Scores(lens.by_demonstration(lens.gradient_step.by_token), 1.0)
