"""The path: contributions through all layers with weights, norms and gates held."""

from __future__ import annotations

import torch

from iclens.lens.scores.methods.method import ATTRIBUTIONS, Problem, Scores, by_demonstration
from iclens.lens.scores.path import path


@ATTRIBUTIONS.register("path")
def score(problem: Problem, generator: torch.Generator) -> Scores:
    """Sum over a demonstration's tokens of their share of the margin through all layers (`iclens.lens.scores.path`)."""
    whole = path(problem.lens_model, problem.input_ids, problem.readout)
    return Scores(by_demonstration(whole.parts, problem), 1.0, 1.0)
