"""The gradient step of the dual models, direct to the margin: one forward pass."""

from __future__ import annotations

import torch

from iclens.lens.scores.gradient_step import explain_directly
from iclens.lens.scores.methods.method import ATTRIBUTIONS, Problem, Scores, by_demonstration


@ATTRIBUTIONS.register("gradient_step")
def score(problem: Problem, generator: torch.Generator) -> Scores:
    """Sum over layers, heads and a demonstration's tokens of their direct contribution to the margin.

    Source: Ren & Liu 2024, Theorem 3.1; `iclens.lens.scores.gradient_step`.
    """
    step = explain_directly(problem.lens_model, problem.input_ids, problem.readout)
    return Scores(by_demonstration(step.contributions.sum((0, 1)), problem), 1.0)
