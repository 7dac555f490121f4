"""Errors of predictions for prompts, at every prefix."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

LossKind = Literal["squared", "cross-entropy"]


def point_losses(
    predictions: Float[Tensor, "*batch n_answers d_y"], labels: Float[Tensor, "*batch n_points d_y"], kind: LossKind
) -> Float[Tensor, "*batch n_answers"]:
    """Return the loss of every answer; the answers are those of the last n_answers points.

    `squared`: Σ_j (ŷ_j − y_j)², summed over the d_y outputs. `cross-entropy`: −Σ_j y_j log softmax(ŷ)_j, in nats.

    Args:
        predictions: ŷ.
        labels: y; one-hot for cross-entropy.
        kind: which loss.
    """
    labels = labels[..., labels.shape[-2] - predictions.shape[-2] :, :]
    if kind == "squared":
        return (predictions - labels).square().sum(-1)
    return -(labels * predictions.log_softmax(-1)).sum(-1)
