"""How much the read-out attends to a demonstration's tokens."""

from __future__ import annotations

import torch

from iclens.lens.read.trace import trace
from iclens.lens.scores.methods.method import ATTRIBUTIONS, Problem, Scores, by_demonstration


@ATTRIBUTIONS.register("attention_weights")
def score(problem: Problem, generator: torch.Generator) -> Scores:
    """Sum over layers, heads, read-out positions and a demonstration's tokens of the attention weight."""
    traced = trace(problem.lens_model, problem.input_ids, problem.readout)
    weights = torch.stack([layer.weights.sum((0, 1)) for layer in traced.layers]).sum(0)
    return Scores(by_demonstration(weights, problem), 1.0)
