"""The same sparse linear model fitted to the margin, the number that all other methods explain."""

from __future__ import annotations

import torch

from iclens.attribution.lasso import N_ABLATIONS, ablations, fit
from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores


@ATTRIBUTIONS.register("lasso_margin")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """Lasso of the margin on 64 random ablations: `lasso` with the target that LDS asks for."""
    keep = ablations(lens, generator)
    return Scores(fit(keep, lens.deletions(keep).margins), float(N_ABLATIONS))
