"""Softmax attention on the conventions of this package: the fused kernel, and the naive reference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from iclens.attention.attending import Attending, repeat_heads


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:
    """softmax(s q kᵀ) v by PyTorch's fused kernel, (..., n_heads, n_query, d_v); memory linear in the tokens.

    The fused kernel's own causality is aligned to the first key; ours to the last, which is what a KV cache needs. Both
    agree for n_query = n_key. Only 1 < n_query < n_key and a `mask` need a bool tensor of n_query · n_key.
    """
    square_causal = attending.is_causal and attending.mask is None and attending.n_query == attending.n_key
    mask = None if square_causal else attending.allowed(q.device)
    leading = torch.broadcast_shapes(*(x.shape[:-3] for x in (q, k, v)))
    if len(leading) != 1 or any(x.shape[:-3] != leading for x in (q, k, v)):
        # The fused kernels take exactly four axes.
        q, k, v = (x.expand(*leading, *x.shape[-3:]).reshape(-1, *x.shape[-3:]) for x in (q, k, v))
        if mask is not None and mask.ndim > 3:
            mask = mask.expand(*leading, *mask.shape[-3:]).reshape(-1, *mask.shape[-3:])
    if mask is not None:
        while mask.ndim < 4:
            mask = mask.unsqueeze(0)
        # An axis of one row is read wrongly by some fused kernels.
        mask = mask.expand(*mask.shape[:-2], attending.n_query, attending.n_key)
    out = scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=square_causal,
        scale=attending.scale,
        enable_gqa=q.shape[-3] != k.shape[-3],
    )
    return out.reshape(*leading, *out.shape[-3:])


def weights_naive(q: Tensor, k: Tensor, attending: Attending) -> Tensor:
    """The attention weights a, (..., n_heads, n_query, n_key); rows that may attend to nothing are zero."""
    scores = q @ repeat_heads(k, attending.n_heads).mT * attending.scale_for(q.shape[-1])
    allowed = attending.allowed(q.device)
    if allowed is None:
        return scores.softmax(-1)
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~allowed, lowest).softmax(-1) * allowed


def scaled_dot_product_naive(q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:
    """The same from the whole matrix of weights."""
    return weights_naive(q, k, attending) @ repeat_heads(v, attending.n_heads)
