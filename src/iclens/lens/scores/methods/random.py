"""Random scores: the control."""

from __future__ import annotations

import torch

from iclens.lens.scores.methods.method import ATTRIBUTIONS, Problem, Scores


@ATTRIBUTIONS.register("random")
def score(problem: Problem, generator: torch.Generator) -> Scores:
    """Uniform scores that know nothing: AUC ½."""
    return Scores(torch.rand(problem.n_demonstrations, generator=generator, dtype=torch.float64), 0.0)
