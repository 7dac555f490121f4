"""Gradient norm: how steeply the margin changes with the token embeddings, whatever the direction."""

from __future__ import annotations

import torch

from iclens.attribution.gradient_x_input import embedding_gradient
from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores


@ATTRIBUTIONS.register("gradient_norm")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """‖∂ margin/∂ embedding‖₁ summed over a demonstration's tokens.

    Source: Ye et al. 2024, "Can input attributions explain inductive reasoning in in-context learning?", section 3.
    """
    _, gradient = embedding_gradient(lens)
    return Scores(lens.by_demonstration(gradient.abs().sum(-1)), 1.0, 1.0)
