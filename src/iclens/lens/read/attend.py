"""Softmax attention as the lens computes it: fast where nothing is kept, rows where they are wanted."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from iclens.lens.model.session import AttentionCall, Plain

MOST_SCORES = 1 << 24
"""Scores, over all heads, that are formed at once; larger products are cut, which costs nothing and bounds memory."""


def repeat(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Each key head once per query head of its group: (batch, key heads · groups, n, d)."""
    if groups == 1:
        return x
    batch, heads, n, width = x.shape
    return x[:, :, None].expand(batch, heads, groups, n, width).reshape(batch, heads * groups, n, width)


def fast(call: AttentionCall, *, most_scores: int = MOST_SCORES) -> torch.Tensor:
    """The heads' output from PyTorch's fused attention; with a soft cap, which that does not have, written out.

    A mask other than the plain causal or full one is formed in blocks of query rows, with no more than `most_scores`
    scores each: one block at ordinary lengths.
    """
    if call.softcap is not None:
        return eager(call, most_scores=most_scores)
    k, v = repeat(call.k, call.groups), repeat(call.v, call.groups)
    attend = functional.scaled_dot_product_attention
    if isinstance(call.seen, Plain):
        return attend(call.q, k, v, is_causal=call.seen.causal and call.q.shape[2] > 1, scale=call.scale)
    pieces = [
        attend(call.q[:, :, rows], k[:, :, keys], v[:, :, keys], attn_mask=mask[..., keys], scale=call.scale)
        for rows, keys, mask in blocks(call, most_scores)
    ]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


def eager(call: AttentionCall, *, most_scores: int = MOST_SCORES) -> torch.Tensor:
    """The heads' output, written out; rows that may see nothing attend uniformly, as Hugging Face's do.

    Long prompts are cut into blocks of query rows, so that no more than `most_scores` scores are formed at once.
    """
    values = repeat(call.v, call.groups)
    # All keys, because rows that may see nothing attend to all.
    pieces = [softmax_rows(call, call.q[:, :, rows], mask) @ values for rows, _, mask in blocks(call, most_scores)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


def blocks(
    call: AttentionCall, most_scores: int, most_rows: int | None = None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Blocks of queries with no more than `most_scores` scores: their rows, the keys that they may see, and their mask.

    Keys that no query of a block may see would cost as much as others: half of all, or all outside a window.
    """
    batch, heads, n_query, _ = call.q.shape
    step = max(1, min(most_rows or n_query, most_scores // (batch * heads * call.k.shape[2])))
    for first in range(0, n_query, step):
        last, keys = min(first + step, n_query), slice(None)
        mask = call.rows(first, last)
        if step < n_query:
            seen = mask.flatten(0, 2).any(0).nonzero()
            keys = slice(int(seen.min()), int(seen.max()) + 1) if len(seen) else keys
        yield slice(first, last), keys, mask


def softmax_rows(call: AttentionCall, q: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention weights (batch, query heads, n_rows, n_key) of some queries (batch, query heads, n_rows, d) of a call.

    The mask broadcasts to the weights, whose rows sum to one.
    """
    batch, heads, n_rows, width = q.shape
    # Grouped heads stand side by side as rows of one product, so that keys are not repeated.
    folded = q.reshape(batch, heads // call.groups, call.groups * n_rows, width)
    scores = (folded @ call.k.transpose(-1, -2)).reshape(batch, heads, n_rows, -1) * call.scale
    return weigh(scores, mask, call.softcap)


def weigh(scores: torch.Tensor, mask: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Softmax of scores under a mask, after the soft cap, at no less than float32."""
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    wide = torch.promote_types(scores.dtype, torch.float32)
    return torch.softmax(scores, dim=-1, dtype=wide).to(scores.dtype)
