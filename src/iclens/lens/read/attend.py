"""Softmax attention as the lens computes it: fast where nothing is kept, rows where they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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


Bias = Callable[[slice, Tensor], Tensor]
"""What is added to the scores of some query rows, (_, 1, rows, n_key), in the type of another tensor."""


def fast(call: AttentionCall, *, most_scores: int = MOST_SCORES, bias: Bias | None = None) -> torch.Tensor:
    """Return the heads' output from PyTorch's fused attention; with a soft cap, which that does not have, written out.

    Learned sinks are one more key, and values narrower than the keys (or wider) are filled up, so that both stay fused.
    A mask other than the plain causal or full one, or a `bias` on the scores after the cap, is formed in blocks of
    query rows, with no more than `most_scores` scores each: one block at ordinary lengths.
    """
    if call.softcap is not None:
        return eager(call, most_scores=most_scores, bias=bias)
    k, v = repeat(call.k, call.groups), repeat(call.v, call.groups)
    if isinstance(call.seen, Plain) and bias is None:
        return _fused(call, call.q, k, v, causal=call.seen.causal and call.q.shape[2] > 1)
    pieces = []
    for rows, keys, mask in blocks(call, most_scores):
        added = mask if bias is None else bias(rows, call.q).masked_fill(~mask, -torch.inf)
        pieces.append(_fused(call, call.q[:, :, rows], k[:, :, keys], v[:, :, keys], mask=added[..., keys]))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


def _fused(
    call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """PyTorch's fused attention, of some queries and keys of a call."""
    if call.sinks is not None:
        # The sink comes first and sees no mask; a query before all others keeps the causal order.
        q, k, v = with_sink(q, k, v, call.sinks, call.scale, first=True)
        q = functional.pad(q, (0, 0, 1, 0)) if causal else q
        mask = None if mask is None else functional.pad(mask, (1, 0), value=mask.dtype == torch.bool)
    width, widest = v.shape[-1], max(k.shape[-1], v.shape[-1])
    q, k, v = (x if x.shape[-1] == widest else functional.pad(x, (0, widest - x.shape[-1])) for x in (q, k, v))
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=call.scale)
    return out[:, :, 1 if causal and call.sinks is not None else 0 :, :width]


def with_sink(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, scale: float, *, first: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values with a learned sink as one more training pair: target 0, the same score for each query.

    q (*heads, n_query, d), k (*heads, n_key, d), v (*heads, n_key, d_v) with one sink for each head, (*heads) or its
    last axis. Queries get a further entry 1, keys 0, and the pair's key is zero except for sink / scale there. The pair
    is the last one, or the `first`.
    """
    extra = functional.pad((sinks / scale).to(k)[..., None, None], (k.shape[-1], 0)).expand(*k.shape[:-2], 1, -1)
    nothing = torch.zeros_like(v[..., :1, :])
    pairs = [(functional.pad(k, (0, 1)), v), (extra, nothing)]
    keys, values = zip(*(reversed(pairs) if first else pairs), strict=True)
    return functional.pad(q, (0, 1), value=1.0), torch.cat(keys, -2), torch.cat(values, -2)


def eager(call: AttentionCall, *, most_scores: int = MOST_SCORES, bias: Bias | None = None) -> torch.Tensor:
    """Return the heads' output, written out; rows that may see nothing attend uniformly, as Hugging Face's do.

    Long prompts are cut into blocks of query rows, so that no more than `most_scores` scores are formed at once.
    """
    values = repeat(call.v, call.groups)
    # All keys, because rows that may see nothing attend to all.
    pieces = [
        softmax_rows(call, call.q[:, :, rows], mask, None if bias is None else bias(rows, call.q)) @ values
        for rows, _, mask in blocks(call, most_scores)
    ]
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


def scores_of(call: AttentionCall, q: torch.Tensor) -> torch.Tensor:
    """Scores (batch, query heads, n_rows, n_key) of some queries (batch, query heads, n_rows, d), before a soft cap."""
    batch, heads, n_rows, width = q.shape
    # Grouped heads stand side by side as rows of one product, so that keys are not repeated.
    folded = q.reshape(batch, heads // call.groups, call.groups * n_rows, width)
    return (folded @ call.k.transpose(-1, -2)).reshape(batch, heads, n_rows, -1) * call.scale


def softmax_rows(
    call: AttentionCall, q: torch.Tensor, mask: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention weights (batch, query heads, n_rows, n_key) of some queries (batch, query heads, n_rows, d) of a call.

    The mask broadcasts to the weights, whose rows sum to one, or with a learned sink to what it leaves.
    """
    return weigh(scores_of(call, q), mask, call.softcap, call.sinks, bias)


def weigh(
    scores: Tensor, mask: Tensor, softcap: float | None, sinks: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Softmax of scores (batch, heads, rows, keys) under a mask, after the soft cap, at no less than float32.

    A bias is added after the cap. Sinks, one score for each head, take part in the softmax; their own weights are left
    out.
    """
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    wide = torch.promote_types(scores.dtype, torch.float32)
    if sinks is None:
        return torch.softmax(scores, dim=-1, dtype=wide).to(scores.dtype)
    joined = torch.cat([scores, sinks.to(scores)[:, None, None].expand(*scores.shape[:-1], 1)], -1)
    return torch.softmax(joined, dim=-1, dtype=wide)[..., :-1].to(scores.dtype)
