"""The same sparse linear model fitted to the margin, the number that all other methods explain."""

from __future__ import annotations

import torch

from iclens.lens.scores.methods.lasso import N_ABLATIONS, ablations, fit
from iclens.lens.scores.methods.method import ATTRIBUTIONS, Problem, Scores


@ATTRIBUTIONS.register("lasso_margin")
def score(problem: Problem, generator: torch.Generator) -> Scores:
    """Lasso of the margin on 64 random ablations: `lasso` with the target that LDS asks for."""
    keep = ablations(problem, generator)
    return Scores(fit(keep, problem.deletions(keep).margins), float(N_ABLATIONS))
