"""Sums over pairs of keys, in log space and a block of rows at a time: losses, norms and alignments of a dual model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from iclens.kernels import Kernel, SignedLog

MOST_ENTRIES = 2**22
"""Most entries of the Gram matrix that are held at once (32 MiB in float64)."""


def _scaled_rows(
    kernel: Kernel,
    k: Float[Tensor, "*batch n_key d"],
    columns: Bool[Tensor, "*batch_c n_key"],
    cost_per_entry: int,
    most_entries: int,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of rows of k(k_i, k_j)/e^{m_i} over the columns j that count, entries in [−1, 1], and m_i.

    m_i = max_j log |k(k_i, k_j)| over those columns alone: else a key's own, far larger, entry would make the
    rest vanish.
    """
    n_key = k.shape[-2]
    rows = max(1, most_entries // max(1, k.shape[:-2].numel() * n_key * cost_per_entry))
    for start in range(0, n_key, rows):
        block = slice(start, start + rows)
        log_abs, sign = kernel.log(k[..., block, :], k)
        log_abs = log_abs.masked_fill(~columns.unsqueeze(-2), -torch.inf)
        # A row of zeros (a zero key under the linear kernel) has maximum −inf and must stay zero.
        largest = log_abs.amax(-1).clamp_min(torch.finfo(k.dtype).min)
        values = (log_abs - largest.unsqueeze(-1)).exp()
        yield block, values if sign is None else values * sign, largest


def pair_sum(
    kernel: Kernel,
    k: Float[Tensor, "*batch n_key d"],
    v: Float[Tensor, "*batch_v n_key d_v"],
    left: Shaped[Tensor, "*batch_l _ n_key"],
    right: Shaped[Tensor, "*batch_r _ n_key"],
    *,
    most_entries: int = MOST_ENTRIES,
) -> SignedLog:
    """Σ_ij left_i right_j v_iᵀv_j k(k_i, k_j), (..., n_row); `left` and `right` say how often each key counts.

    The Gram matrix is never formed whole. Time O(n_key² (d + d_v + n_row)), memory O(n_key · n_row), a block of
    at most `most_entries` at a time.
    """
    terms, scales = [], []
    for block, gram, log_scale in _scaled_rows(kernel, k, right.any(-2), 1, most_entries):
        products = gram * (v[..., block, :] @ v.mT)
        terms.append((right.to(v.dtype) @ products.mT) * left[..., block])
        scales.append(log_scale)
    values, log_scales = torch.cat(terms, -1), torch.cat(scales, -1).unsqueeze(-2)
    attended = torch.where(left > 0, log_scales, torch.finfo(v.dtype).min)
    largest = attended.amax(-1, keepdim=True)
    total = (values * (attended - largest).exp()).sum(-1)
    return SignedLog(total.abs().log() + largest.squeeze(-1), total.sign())


def prediction_cosines(
    kernel: Kernel,
    k: Float[Tensor, "*batch n_key d"],
    v: Float[Tensor, "*batch_v n_key d_v"],
    at: Shaped[Tensor, "*batch_l _ n_key"],
    trained_on: Shaped[Tensor, "*batch_r _ n_key"],
    *,
    most_entries: int = MOST_ENTRIES,
) -> tuple[Float[Tensor, "*out n_row n_key"], Float[Tensor, "*out n_row"]]:
    """Cosines of f(k_i) = Σ_j trained_on_j v_j k(k_j, k_i) with v_i, and the length of the sum of f's unit vectors.

    `at` and `trained_on` say how often each key counts.

    Returns:
        cosines (..., n_row, n_key), 0 where either vector is zero; and ‖Σ_i at_i f(k_i)/‖f(k_i)‖‖, (..., n_row).
    """
    cosines, unit_sum = [], v.new_zeros(())
    positives = torch.nn.functional.normalize(v, dim=-1, eps=torch.finfo(v.dtype).tiny)
    cost = max(1, trained_on.shape[-2])
    for block, gram, _ in _scaled_rows(kernel, k, trained_on.any(-2), cost, most_entries):
        # (..., n_row, block, d_v): each row trains on its own keys.
        predictions = (gram.unsqueeze(-3) * trained_on.unsqueeze(-2)) @ v.unsqueeze(-3)
        units = torch.nn.functional.normalize(predictions, dim=-1, eps=torch.finfo(v.dtype).tiny)
        cosines.append((units * positives[..., None, block, :]).sum(-1))
        unit_sum = unit_sum + (units * at[..., block].unsqueeze(-1)).sum(-2)
    return torch.cat(cosines, -1), unit_sum.norm(dim=-1)
