"""`iclens.attention.extreme_keys.lowest` as one Triton kernel: scores live in registers only.

A program holds a block of queries and runs over the blocks of keys that they may see. It is about the first half of a
flash-attention pass, without the exponentials. Import it only where Triton is installed: it is no dependency of iclens.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, attr-defined"

from __future__ import annotations

import os
from typing import no_type_check

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from iclens.attention.attending import Attending
from iclens.attention.extreme_keys import Chosen, shares_of

MOST_CHOSEN = 4
"""One pass over the keys for each chosen (or skipped) key, so that many would cost more than a sort."""

MOST_FEATURES = {torch.float16: 256, torch.bfloat16: 256, torch.float32: 64}
"""Widest head of every dtype that the kernel takes: compiled for a wider one, it spills its registers."""


def supports(q: Tensor, k: Tensor, attending: Attending, wanted: int) -> bool:
    """Whether the kernel takes this case: half or single precision, at most a mask over keys, few keys wanted."""
    return (
        q.shape[-1] <= MOST_FEATURES.get(q.dtype, 0)
        and wanted <= MOST_CHOSEN
        and q.device == k.device
        and (attending.mask is None or attending.mask.shape[-2] == 1)
    )


@torch.no_grad()
def lowest_of_products(
    q: Tensor, k: Tensor, attending: Attending, *, count: int, skip: int, spare: int, highest: bool = False
) -> Chosen:
    """Return the `count` keys with the lowest (or highest) products q kᵀ for every query.

    Among equal scores the key with the lowest index comes first. Products are exact in half precision and summed in
    float32; those of float32 are not rounded to TF32. The other rules are those of `extreme_keys.lowest`, where it is
    open which of equal scores comes first.

    Args:
        q: (..., n_heads, n_query, d).
        k: (..., n_kv_heads, n_key, d); not repeated for the query heads.
        attending: who may attend to whom; a mask must be one over keys, (..., 1, n_key).
        count: how many keys to choose.
        skip: leave out that many lowest ones first.
        spare: how many candidates of a row must stay unchosen.
        highest: take the highest in place of the lowest.
    """
    n_heads, n_query, n_key, d = attending.n_heads, attending.n_query, attending.n_key, q.shape[-1]
    mask = attending.mask
    wanted = min(count + skip, n_key)
    leading = torch.broadcast_shapes(q.shape[:-3], k.shape[:-3], () if mask is None else mask.shape[:-3])
    rows, keys = (x.detach().expand(*leading, *x.shape[-3:]).reshape(-1, *x.shape[-3:]) for x in (q, k))
    allowed = rows
    mask_strides: tuple[int, ...] = (0, 0, 0)
    if mask is not None:
        allowed = mask.expand(*leading, n_heads, 1, n_key).view(torch.uint8).reshape(-1, n_heads, n_key)
        mask_strides = allowed.stride()
    index = torch.empty(rows.shape[0], n_heads, n_query, wanted, dtype=torch.int64, device=q.device)
    half = q.dtype != torch.float32
    block_q, block_k = (128, 64) if half and d <= 128 else (64, 32)
    lowest_kernel[(triton.cdiv(n_query, block_q), rows.shape[0] * n_heads)](
        rows,
        keys,
        allowed,
        index,
        *rows.stride(),
        *keys.stride(),
        *mask_strides,
        n_query,
        n_key,
        n_heads,
        n_heads // k.shape[-3],
        d,
        WANTED=wanted,
        SIGN=-1.0 if highest else 1.0,
        CAUSAL=attending.is_causal,
        HAS_MASK=mask is not None,
        WIDEN=q.dtype == torch.bfloat16 and os.environ.get("TRITON_INTERPRET") == "1",
        WIDTH=max(16, triton.next_power_of_2(d)),
        BLOCK_Q=block_q,
        BLOCK_K=block_k,
        num_warps=8 if block_q == 128 else 4,
        num_stages=3 if half else 2,
    )
    chosen = index.view(*leading, n_heads, n_query, wanted)[..., skip:]
    return Chosen(chosen, _all_shares(attending, chosen, count, skip + spare))


def _all_shares(attending: Attending, chosen: Tensor, count: int, unavailable: int) -> Tensor | None:
    mask, n_query = attending.mask, attending.n_query
    n_candidates: int | Tensor = attending.n_key
    if attending.is_causal:
        last = torch.arange(n_query, device=chosen.device) + attending.first_position
        if mask is None:
            n_candidates = (last + 1).unsqueeze(-1)
        else:
            n_candidates = mask.squeeze(-2).cumsum(-1)[..., last].unsqueeze(-1)
    elif mask is not None:
        n_candidates = mask.sum(-1, keepdim=True)
    share = shares_of(n_candidates, chosen, count, unavailable)
    return None if share is None else share.expand(chosen.shape)


# Triton reads the source of these two functions: nothing may wrap them, a checker of types least of all.


@triton.jit
@no_type_check
def lowest_kernel(  # noqa: D103
    q_ptr,
    k_ptr,
    mask_ptr,
    index_ptr,
    q_batch,
    q_head,
    q_row,
    q_feature,
    k_batch,
    k_head,
    k_row,
    k_feature,
    mask_batch,
    mask_head,
    mask_column,
    n_query,
    n_key,
    n_heads,
    group,
    d,
    WANTED: tl.constexpr,
    SIGN: tl.constexpr,
    CAUSAL: tl.constexpr,
    HAS_MASK: tl.constexpr,
    WIDEN: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    first_row = tl.program_id(0) * BLOCK_Q
    batch = (tl.program_id(1) // n_heads).to(tl.int64)
    head = (tl.program_id(1) % n_heads).to(tl.int64)
    k_ptr += batch * k_batch + (head // group) * k_head
    mask_ptr += batch * mask_batch + head * mask_head
    row = first_row + tl.arange(0, BLOCK_Q)
    feature = tl.arange(0, WIDTH)
    q = tl.load(
        q_ptr + batch * q_batch + head * q_head + row.to(tl.int64)[:, None] * q_row + feature[None, :] * q_feature,
        mask=(row < n_query)[:, None] & (feature < d)[None, :],
        other=0.0,
    )
    # Triton's interpreter multiplies the bit patterns of bfloat16; in float32 the products are the same numbers.
    if WIDEN:
        q = q.to(tl.float32)
    # Before `plain` every query of the block sees every key; only from there on are positions compared.
    if CAUSAL:
        limit = tl.minimum(row + n_key - n_query + 1, n_key)
        reach = tl.minimum(first_row + BLOCK_Q + n_key - n_query, n_key)
        plain = tl.minimum(first_row + n_key - n_query + 1, n_key) // BLOCK_K * BLOCK_K
    else:
        limit = tl.full([BLOCK_Q], 0, tl.int32) + n_key
        reach = n_key
        plain = n_key // BLOCK_K * BLOCK_K
    before = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    before_index = tl.full([BLOCK_Q], -1, tl.int32)
    for rank in range(WANTED):
        # One running minimum for each row and column of a block: a reduction inside the loop would cost far more.
        best = tl.full([BLOCK_Q, BLOCK_K], float("inf"), tl.float32)
        best_start = tl.full([BLOCK_Q, BLOCK_K], 0, tl.int32)
        for start in range(0, plain, BLOCK_K):
            best, best_start = _pass_block(
                best, best_start, start, q, k_ptr, mask_ptr, k_row, k_feature, mask_column, n_key, d, limit, before,
                before_index, WANTED, SIGN, HAS_MASK, WIDEN, False, WIDTH, BLOCK_K,
            )  # fmt: skip
        for start in range(plain, reach, BLOCK_K):
            best, best_start = _pass_block(
                best, best_start, start, q, k_ptr, mask_ptr, k_row, k_feature, mask_column, n_key, d, limit, before,
                before_index, WANTED, SIGN, HAS_MASK, WIDEN, True, WIDTH, BLOCK_K,
            )  # fmt: skip
        before = tl.min(best, 1)
        column = best_start + tl.arange(0, BLOCK_K)[None, :]
        found = tl.min(tl.where(best == before[:, None], column, 2147483647), 1)
        # A row without a candidate left gets a key that exists; its share is 0.
        before_index = tl.where(before < float("inf"), found, 0)
        out = index_ptr + (tl.program_id(1).to(tl.int64) * n_query + row) * WANTED + rank
        tl.store(out, before_index.to(tl.int64), mask=row < n_query)


@triton.jit
@no_type_check
def _pass_block(
    best,
    best_start,
    start,
    q,
    k_ptr,
    mask_ptr,
    k_row,
    k_feature,
    mask_column,
    n_key,
    d,
    limit,
    before,
    before_index,
    WANTED: tl.constexpr,
    SIGN: tl.constexpr,
    HAS_MASK: tl.constexpr,
    WIDEN: tl.constexpr,
    BOUNDED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    column = start + tl.arange(0, BLOCK_K)
    feature = tl.arange(0, WIDTH)
    where = k_ptr + column.to(tl.int64)[None, :] * k_row + feature[:, None] * k_feature
    k = tl.load(where, mask=(column < n_key)[None, :] & (feature < d)[:, None], other=0.0)
    if WIDEN:
        k = k.to(tl.float32)
    scores = SIGN * tl.dot(q, k, input_precision="ieee")
    if BOUNDED:
        scores = tl.where(column[None, :] < limit[:, None], scores, float("inf"))
    if HAS_MASK:
        allowed = tl.load(mask_ptr + column * mask_column, mask=column < n_key, other=0)
        scores = tl.where((allowed != 0)[None, :], scores, float("inf"))
    if WANTED > 1:
        # What an earlier pass took: those below it, and at its own score those up to its index.
        later = (scores > before[:, None]) | ((scores == before[:, None]) & (column[None, :] > before_index[:, None]))
        scores = tl.where(later, scores, float("inf"))
    better = scores < best
    return tl.where(better, scores, best), tl.where(better, start, best_start)
