"""How much the read-out attends to a demonstration's tokens."""

from __future__ import annotations

import torch

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores


@ATTRIBUTIONS.register("attention_weights")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """Sum over layers, heads, read-out positions and a demonstration's tokens of the attention weight."""
    weights = torch.stack([layer.weights[0].sum((0, 1)) for layer in lens.traced.layers]).sum(0)
    return Scores(lens.by_demonstration(weights), 1.0)
