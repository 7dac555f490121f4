"""The Lasso of the margin on fewer and on more random ablations than 64."""

from __future__ import annotations

from functools import partial

import torch

from iclens.attribution.lasso import ablations, fit
from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores

SIZES = (8, 16, 32, 128)


def score(lens: Lens, generator: torch.Generator, *, n_ablations: int) -> Scores:
    """`lasso_margin` on another number of ablations; with the same generator the larger contain the smaller."""
    keep = ablations(lens, generator, n_ablations)
    return Scores(fit(keep, lens.deletions(keep).margins), float(n_ablations))


for _size in SIZES:
    ATTRIBUTIONS.register(f"lasso_margin_{_size}")(partial(score, n_ablations=_size))
