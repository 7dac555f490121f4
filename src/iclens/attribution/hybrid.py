"""Mirrored influence, corrected by a few real deletions."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.attribution.influence_mirrored import mirrored
from iclens.attribution.lasso import ablations
from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted


def corrected(
    scores: Float[Tensor, " n_demonstrations"],
    keep: Bool[Tensor, "n_deletions n_demonstrations"],
    margins: Float[Tensor, " n_deletions"],
) -> Float[Tensor, " n_demonstrations"]:
    """Correct scores so that they predict the margins of some shortened prompts, and else stay near the given ones.

    margins ≈ c + a ⟨scores, keep⟩ by least squares, a ≥ 0; what is left is fitted by ridge regression on the
    keep-masks, with a penalty as large as the masks' total variance, n/4: half of what is left counts as additive.

    Args:
        scores: the scores to start from.
        keep: which demonstrations each shortened prompt has.
        margins: the explained margin of each.
    """
    x = keep.double() - 0.5
    x = x - x.mean(0)
    scale, rest = scaled(scores, keep, margins)
    penalty = keep.shape[1] / 4
    weights = torch.linalg.solve(x @ x.T + penalty * torch.eye(len(x), dtype=torch.float64), rest)
    return scale * scores.double() + x.T @ weights


def scaled(
    scores: Float[Tensor, " n_demonstrations"],
    keep: Bool[Tensor, "n_deletions n_demonstrations"],
    margins: Float[Tensor, " n_deletions"],
) -> tuple[float, Float[Tensor, " n_deletions"]]:
    """The factor a ≥ 0 of margins ≈ c + a ⟨scores, keep⟩ by least squares, and what it leaves."""
    x, y = keep.double() - 0.5, (margins - margins.mean()).double()
    summed = (x - x.mean(0)) @ scores.double()
    size = float(summed @ summed)
    scale = max(0.0, float(summed @ y) / size) if size else 0.0
    return scale, y - scale * summed


def score(lens: Lens, generator: torch.Generator, *, n_deletions: int) -> Scores:
    """The mirrored influence, scaled to and corrected by real deletions of random halves."""

    def values() -> Tensor:
        scores = mirrored(lens, generator)
        keep = ablations(lens, generator, n_deletions)
        return corrected(scores, keep, lens.deletions(keep).margins)

    return counted(lens, values)


ATTRIBUTIONS.register("hybrid_8")(partial(score, n_deletions=8))
ATTRIBUTIONS.register("hybrid_16")(partial(score, n_deletions=16))
