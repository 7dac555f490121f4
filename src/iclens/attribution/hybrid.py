"""Mirrored influence, corrected by a few real deletions."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from iclens.attribution.influence_mirrored import mirrored
from iclens.attribution.lasso import ablations
from iclens.attribution.shared.correction import corrected
from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted


def score(lens: Lens, generator: torch.Generator, *, n_deletions: int) -> Scores:
    """Return the mirrored influence, scaled to and corrected by real deletions of random halves."""

    def values() -> Tensor:
        scores = mirrored(lens, generator)
        keep = ablations(lens, generator, n_deletions)
        return corrected(scores, keep, lens.deletions(keep).margins)

    return counted(lens, values)


ATTRIBUTIONS.register("hybrid_8")(partial(score, n_deletions=8))
ATTRIBUTIONS.register("hybrid_16")(partial(score, n_deletions=16))
