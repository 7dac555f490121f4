"""The same sparse linear model fitted to the margin, the number that all other methods explain."""

from __future__ import annotations

from functools import partial

import torch

from iclens.attribution.lasso import N_ABLATIONS, ablations, fit
from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted

SIZES = (8, 16, 32, 128)
"""Numbers of ablations besides the usual one, each registered with its number in the name."""


def score(lens: Lens, generator: torch.Generator, *, n_ablations: int) -> Scores:
    """Lasso of the margin on random ablations: `lasso` with the target that LDS asks for.

    With the same generator a larger number contains the smaller.
    """
    keep = ablations(lens, generator, n_ablations)
    return counted(lens, lambda: fit(keep, lens.deletions(keep).margins))


ATTRIBUTIONS.register("lasso_margin")(partial(score, n_ablations=N_ABLATIONS))
for _size in SIZES:
    ATTRIBUTIONS.register(f"lasso_margin_{_size}")(partial(score, n_ablations=_size))
