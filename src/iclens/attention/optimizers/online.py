"""Online gradient descent on the squared loss, one token after another: what it leaves at each key."""

from __future__ import annotations

import torch
from torch import Tensor

from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.optimizers.key_gram import system, wide
from iclens.attention.optimizers.trained import one_by_one
from iclens.attention.optimizers.training_sets import seen_keys
from iclens.attention.strength import Strength
from iclens.dual import StepLoss


def errors_naive(gram: Tensor, v: Tensor, attending: Attending) -> Tensor:
    """e_ti = v_i − W_{i−1} φ_i over query t's keys, in their order, W_i = W_{i−1} + β e_ti φ_iᵀ, W_0 = 0.

    Args:
        gram: β φ_i·φ_j, (..., n_kv_heads, n_key, n_key).
        v: values, (..., n_kv_heads, n_key, d_v).
        attending: who attends to whom; a key that query t may not attend to has e_ti = 0.

    Returns:
        (..., n_heads, n_query or 1, n_key, d_v), the axis of the queries 1 where all see the same keys or causality is
        all that sets them apart: then what later tokens add changes nothing for the earlier ones.
    """
    seen = seen_keys(attending, v.device).unsqueeze(-1)
    if attending.mask is None:
        seen = seen[..., -1:, :, :]
    gram, values = (wide(repeat_heads(x, attending.n_heads)).unsqueeze(-3) for x in (gram, v))
    errors = [values[..., :1, :] * seen[..., :1, :]]
    for i in range(1, attending.n_key):
        earlier = torch.cat(errors, -2)
        row = slice(i, i + 1)
        errors.append((values[..., row, :] - gram[..., row, :i] @ earlier) * seen[..., row, :])
    return torch.cat(errors, -2)


def errors(gram: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """The same for all queries at once, (..., heads, n_key, d_v): (I + β tril(φ_i·φ_j, −1))⁻¹ V.

    Row i of a triangular system needs the rows before it and no other, so that one solution serves every prefix.
    """
    return torch.linalg.solve_triangular(system(gram, visible), wide(v), upper=False, unitriangular=True)


def read_one_by_one(weights: Tensor, gram: Tensor, v: Tensor, attending: Attending) -> Tensor:
    """Σ_i a_ti e_ti for queries that see any keys, each with an optimizer of its own: time O(n_query n_key²)."""

    def solve(matrix: Tensor, given: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(matrix.mT, given, upper=True, unitriangular=True)

    gram, values = (wide(repeat_heads(x, attending.n_heads)) for x in (gram, v))
    return one_by_one(solve, weights, gram, values, attending)


def step_losses(gram: Tensor, v: Tensor, rate: Strength, attending: Attending) -> StepLoss:
    """½ Σ_i ‖W φ_i − v_i‖² of every pair just before its own step and just after it: (1 − β)² times as much.

    Args:
        gram: as in `errors_naive`.
        v: as in `errors_naive`.
        rate: β, one number or one for each key head.
        attending: who attends to whom.
    """
    seen = seen_keys(attending, v.device).unsqueeze(-1)
    before = (errors_naive(gram, v, attending) * seen).square().sum((-2, -1)) / 2
    factor = (1 - rate) ** 2
    if isinstance(factor, Tensor) and factor.ndim:
        factor = repeat_heads(factor[..., None, None], before.shape[-2]).squeeze(-1).to(before)
    return StepLoss(before, before * factor)
