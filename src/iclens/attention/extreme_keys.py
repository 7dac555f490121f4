"""The keys with the lowest scores of every row, a block of rows at a time: no score matrix is kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK_SCORES = 2**21
"""Scores formed at once (8 MiB in float32); found by measurement."""

_GROUPS = 16
"""Scores of a row compared at once; found by measurement."""


_HAS_TRITON = find_spec("triton") is not None


def has_kernel(x: Tensor) -> bool:
    """Return whether `gpu.extreme_keys` can run where `x` lies: on a GPU, or anywhere in Triton's interpreter."""
    return _HAS_TRITON and (x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1")


class Chosen(NamedTuple):
    """The chosen keys of every row.

    Attributes:
        key: (..., n_row, count), the chosen keys in order of their scores.
        share: 1/|N| for the chosen keys that count, 0 for the others, (..., n_row, count); None when every row has all
            of them, so that the share is 1/count.
    """

    key: Tensor
    share: Tensor | None


Block = Callable[[int, int, int], Tensor]
"""(start, stop, n_key) -> scores of rows start…stop on the first n_key keys, which `lowest` may overwrite, and of which
it needs only the latest."""


@torch.no_grad()
def lowest(
    scores: Block,
    mask: Block | None,
    *,
    n_row: int,
    n_key: int,
    n_batch: int,
    count: int,
    skip: int = 0,
    spare: int = 1,
    causal_from: int | None = None,
) -> Chosen:
    """Return the `count` candidate keys with the lowest scores of every row; among equal scores it is open which.

    A row with m candidates has min(count, m − skip − spare) chosen keys, or none.

    Args:
        scores: gives a block of scores.
        mask: gives a block of what may be chosen, True where it may; None for everything.
        n_row: number of rows.
        n_key: number of keys.
        n_batch: scores of one row and key (batch times heads).
        count: how many to choose; less than n_key.
        skip: leave out that many lowest ones first.
        spare: how many candidates of a row must stay unchosen.
        causal_from: row t has candidates only among the first t + causal_from + 1 keys; None for no such limit.
    """
    step = min(256, max(16, _CHUNK_SCORES // max(1, n_batch * n_key)))
    wanted = min(count + skip, n_key)
    # Filled block by block: what stays between two blocks would keep their place in memory from being used again.
    index = share = None
    for start in range(0, n_row, step):
        stop = min(start + step, n_row)
        reach = n_key if causal_from is None else min(max(stop + causal_from, wanted), n_key)
        block = scores(start, stop, reach)
        n_candidates: Tensor | int = reach
        if causal_from is not None:
            limits = torch.arange(start, stop, device=block.device).unsqueeze(-1) + causal_from + 1
            seen_by_all = min(max(start + causal_from + 1, 0), reach)
            late = torch.arange(seen_by_all, reach, device=block.device) >= limits
            block[..., seen_by_all:].masked_fill_(late, torch.inf)
            n_candidates = limits
        if mask is not None:
            forbidden = ~mask(start, stop, reach)
            wider = torch.broadcast_shapes(forbidden.shape, block.shape) != block.shape
            block = block.masked_fill(forbidden, torch.inf) if wider else block.masked_fill_(forbidden, torch.inf)
            n_candidates = (block < torch.inf).sum(-1, keepdim=True)
        found = _lowest_of_rows(block, wanted)[..., skip:]
        if index is None:
            index = found.new_empty(*found.shape[:-2], n_row, found.shape[-1])
        index[..., start:stop, :] = found
        found_share = shares_of(n_candidates, found, count, skip + spare)
        if found_share is not None:
            if share is None:
                share = torch.full_like(index, 1 / count, dtype=found_share.dtype)
            share[..., start:stop, :] = found_share
    assert index is not None
    return Chosen(index, share)


def shares_of(n_candidates: int | Tensor, index: Tensor, count: int, unavailable: int) -> Tensor | None:
    """1/|N| for the first |N| = min(count, n_candidates − unavailable) chosen keys of a row, 0 for the others.

    Args:
        n_candidates: candidates of each row, broadcasting over (..., n_row, 1), or one number for all rows.
        index: the chosen keys, (..., n_row, count).
        count: how many keys a row has at most.
        unavailable: how many candidates a row cannot have.
    """
    if isinstance(n_candidates, int):
        if n_candidates - unavailable >= count:
            return None
        n_candidates = torch.full((1, 1), n_candidates, device=index.device)
    chosen = (n_candidates - unavailable).clamp(0, count)
    rank = torch.arange(index.shape[-1], device=index.device)
    return (rank < chosen) / chosen.clamp_min(1)


def _lowest_of_rows(block: Tensor, wanted: int) -> Tensor:
    """Indices of the `wanted` lowest entries of every row, in order.

    The `wanted` lowest lie in the `wanted` groups with the lowest minima. Minima over interleaved groups are vectorised
    where a search with indices is not.
    """
    n = block.shape[-1]
    width = n // _GROUPS
    if width < 4 * max(wanted, 2):
        return _in_order(block, wanted)
    even = width * _GROUPS
    grouped = block[..., :even].unflatten(-1, (_GROUPS, width))
    group = _in_order(grouped.amin(-2), wanted)
    members = group.unsqueeze(-1) + torch.arange(0, even, width, device=block.device)
    candidates = members.flatten(-2)
    if even < n:
        rest = torch.arange(even, n, device=block.device).expand(*candidates.shape[:-1], -1)
        candidates = torch.cat([candidates, rest], -1)
    return candidates.gather(-1, _in_order(block.gather(-1, candidates), wanted))


def _in_order(block: Tensor, wanted: int) -> Tensor:
    if wanted == 1:
        return block.argmin(-1, keepdim=True)
    return block.topk(wanted, largest=False, sorted=True).indices
