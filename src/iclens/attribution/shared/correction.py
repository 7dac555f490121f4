"""Scores corrected so that they predict what some real deletions did."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PENALTIES = (1.0, 4.0, 16.0)
"""Ridge penalties to choose among, in total variances of the keep-masks, n/4; or none of what is left is believed."""


def corrected(
    scores: Float[Tensor, " n_demonstrations"],
    keep: Bool[Tensor, "n_deletions n_demonstrations"],
    margins: Float[Tensor, " n_deletions"],
) -> Float[Tensor, " n_demonstrations"]:
    """Correct scores so that they predict the margins of some shortened prompts, and else stay near the given ones.

    margins ≈ c + a ⟨scores, keep⟩ by least squares, a ≥ 0, where a = 1, as the scores say themselves, counts as one
    deletion for each demonstration. What is left is fitted by ridge regression on the keep-masks. Its penalty is the
    one that predicts each margin best from the others: where demonstrations act through each other, what is left is
    not additive, and the scores stay as they are.

    Args:
        scores: the scores to start from.
        keep: which demonstrations each shortened prompt has.
        margins: the explained margin of each.
    """
    x = keep.double() - 0.5
    x = x - x.mean(0)
    scale, rest = scaled(scores, keep, margins, itself=keep.shape[1] / len(x))
    best, weights = _left_out(rest, torch.zeros(len(x), len(x), dtype=torch.float64)), torch.zeros_like(rest)
    for penalty in PENALTIES:
        inverse = torch.linalg.inv(x @ x.T + penalty * keep.shape[1] / 4 * torch.eye(len(x), dtype=torch.float64))
        error = _left_out(rest, x @ x.T @ inverse)
        if error < best:
            best, weights = error, inverse @ rest
    return scale * scores.double() + x.T @ weights


def scaled(
    scores: Float[Tensor, " n_demonstrations"],
    keep: Bool[Tensor, "n_deletions n_demonstrations"],
    margins: Float[Tensor, " n_deletions"],
    *,
    itself: float = 0.0,
) -> tuple[float, Float[Tensor, " n_deletions"]]:
    """Return the factor a ≥ 0 of margins ≈ c + a ⟨scores, keep⟩ by least squares, and what it leaves.

    a = 1 counts `itself` times as much as all deletions.
    """
    x, y = keep.double() - 0.5, (margins - margins.mean()).double()
    summed = (x - x.mean(0)) @ scores.double()
    size = float(summed @ summed)
    scale = max(0.0, (float(summed @ y) / size + itself) / (1 + itself)) if size else 0.0
    return scale, y - scale * summed


def _left_out(y: Float[Tensor, " m"], smoother: Float[Tensor, "m m"]) -> float:
    """Mean square error of predicting each y from the others, by ridge regression and their mean; in closed form."""
    hat = smoother + 1 / len(y)
    return float((((y - hat @ y) / (1 - hat.diagonal())) ** 2).mean())
