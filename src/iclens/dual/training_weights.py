"""Training weights: how often each demonstration counts in the training set of a dual model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.dual.demonstrations import Groups
from iclens.errors import UserError

TrainingWeights = float | int | Sequence[float | int] | Tensor
"""One weight for all demonstrations, one for each, or one for each query and demonstration."""


def checked_weights(
    given: TrainingWeights, groups: Groups, n_query: int, like: Tensor
) -> Float[Tensor, "*batch _ n_demonstrations"]:
    """Bring training weights to the shape (..., n_query or 1, n_demonstrations), of the dtype and device of `like`.

    Raises:
        UserError: a weight that is negative or not finite, or a shape that does not fit.
    """
    weights = torch.as_tensor(given, dtype=like.dtype, device=like.device)
    n = groups.n_demonstrations
    weights = weights.expand(n) if weights.ndim == 0 else weights
    if weights.ndim == 1:
        weights = weights.unsqueeze(0)
    if weights.shape[-1] != n or weights.shape[-2] not in (1, n_query):
        raise UserError(
            f"training_weights has shape {tuple(torch.as_tensor(given).shape)}; it needs one weight for each of the "
            f"{n} demonstrations, ({n},), or for each query too, (..., {n_query}, {n})."
        )
    wrong = ~(weights.isfinite() & (weights >= 0))
    if bool(wrong.any()):
        where = tuple(wrong.nonzero()[0].tolist())
        raise UserError(
            f"the training weight of demonstration {where[-1]} is {weights[where].item():g}: it must be 0 or positive, "
            "and finite."
        )
    return weights


def of_keys(
    weights: Float[Tensor, "*batch_w n_row n_demonstrations"], groups: Groups
) -> Float[Tensor, "*batch n_row n_key"]:
    """Give every key the weight of its demonstration, and 1 to keys of none."""
    ids = groups.ids.unsqueeze(-2)
    shape = torch.broadcast_shapes(weights.shape[:-1], ids.shape[:-1])
    index = ids.clamp_min(0).expand(*shape, -1)
    return torch.where(ids < 0, 1.0, weights.expand(*shape, -1).gather(-1, index))


def of_tokens(given: TrainingWeights, groups: Groups, x: Tensor) -> Float[Tensor, "*batch n n_demonstrations"]:
    """Return the weights in the dual model of every token of `x`, (..., n, d_model).

    One weight for all demonstrations, or one for each, is that of the edges into a demonstration from outside of it:
    its own tokens' duals count it once, so that it is the same demonstration, said more or less often.

    Raises:
        UserError: what `checked_weights` refuses.
    """
    n = x.shape[-2]
    weights = checked_weights(given, groups, n, x)
    if torch.as_tensor(given).ndim < 2:
        own = groups.ids.unsqueeze(-1) == torch.arange(groups.n_demonstrations, device=x.device)
        return torch.where(own, 1.0, weights)
    return weights.expand(*weights.shape[:-2], n, -1)
