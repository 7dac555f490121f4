"""Softmax attention as the lens computes it: fast where nothing is kept, rows where they are wanted."""

from __future__ import annotations

import torch
from torch.nn import functional

from iclens.lens.model.session import AttentionCall

# Scores that are formed at once; larger products are cut, which costs nothing and bounds the memory.
MOST_SCORES = 1 << 26


def repeat(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Each key head once per query head of its group: (batch, key heads · groups, n, d)."""
    if groups == 1:
        return x
    batch, heads, n, width = x.shape
    return x[:, :, None].expand(batch, heads, groups, n, width).reshape(batch, heads * groups, n, width)


def fast(call: AttentionCall) -> torch.Tensor:
    """The heads' output with no n × n tensor kept; without a soft cap none is formed either."""
    if call.softcap is not None:
        return eager(call)
    return functional.scaled_dot_product_attention(
        call.q,
        repeat(call.k, call.groups),
        repeat(call.v, call.groups),
        attn_mask=call.mask,
        is_causal=call.mask is None and call.causal and call.q.shape[2] > 1,
        scale=call.scale,
    )


def eager(call: AttentionCall) -> torch.Tensor:
    """The heads' output, written out; rows that may see nothing attend uniformly, as Hugging Face's do.

    Long prompts are cut by query rows, so that scores never take more than `MOST_SCORES` numbers.
    """
    batch, heads, n_query, _ = call.q.shape
    values = repeat(call.v, call.groups)
    step = max(1, MOST_SCORES // (batch * heads * call.k.shape[2]))
    pieces = []
    for first in range(0, n_query, step):
        last = min(first + step, n_query)
        weights = softmax_rows(call, call.q[:, :, first:last], call.rows(first, last))
        pieces.append(weights @ values)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


def softmax_rows(call: AttentionCall, q: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention weights of some queries over all keys.

    Args:
        call: the layer's call.
        q: queries (batch, query heads, n_rows, d).
        mask: bool, broadcasting to (batch, query heads, n_rows, n_key).

    Returns:
        (batch, query heads, n_rows, n_key), rows sum to one.
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
