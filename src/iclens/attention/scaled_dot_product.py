"""Softmax attention on the conventions of this package: the fused kernel, and the naive reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from iclens.attention.attending import Attending, repeat_heads


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:
    """softmax(s q kᵀ) v by PyTorch's fused kernel, (..., n_heads, n_query, d_v); memory linear in the tokens.

    Only 1 < n_query < n_key under causality, and a `mask` that differs from query to query, need a tensor of n_query ·
    n_key.
    """
    given = four_axes(q, k, v, attending)
    out = scaled_dot_product_attention(
        given.q,
        given.k,
        given.v,
        attn_mask=given.additive_mask() if q.device.type == "cpu" else given.mask,
        is_causal=given.is_causal,
        scale=attending.scale,
        enable_gqa=given.q.shape[-3] != given.k.shape[-3],
    )
    return given.restored(out)


@dataclass(frozen=True, eq=False)
class FourAxes:
    """The arguments of a fused kernel, which takes exactly four axes.

    Attributes:
        q: (batch, n_heads, n_query, d).
        k: (batch, n_kv_heads, n_key, d).
        v: (batch, n_kv_heads, n_key, d_v).
        mask: True where a query may attend, (batch or 1, n_heads or 1, n_query, n_key); None for everywhere, or where
            `is_causal` says it all.
        is_causal: the kernel's own causality, which is aligned to the first key; ours to the last, which is what a KV
            cache needs. Both agree for n_query = n_key.
        leading: the axes before the heads of the output.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    is_causal: bool
    leading: torch.Size

    def additive_mask(self) -> Tensor | None:
        """0 where a query may attend and −∞ elsewhere; without a copy for every query where they share their mask.

        PyTorch's own conversion of a bool mask makes the copies.
        """
        if self.mask is None:
            return None
        shared = self.mask[..., :1, :] if self.mask.stride(-2) == 0 else self.mask
        zeros = torch.zeros_like(shared, dtype=self.q.dtype)
        return zeros.masked_fill_(~shared, -torch.inf).expand(self.mask.shape)

    def restored(self, out: Tensor) -> Tensor:
        """Return the kernel's output with all its leading axes."""
        return out.reshape(*self.leading, *out.shape[-3:])


def four_axes(q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> FourAxes:
    """Fold the leading axes of an attention call into one."""
    square_causal = attending.is_causal and attending.mask is None and attending.n_query == attending.n_key
    mask = None if square_causal else attending.allowed(q.device)
    leading = torch.broadcast_shapes(*(x.shape[:-3] for x in (q, k, v)))
    if mask is not None:
        leading = torch.broadcast_shapes(leading, mask.shape[:-3])
    if len(leading) != 1 or any(x.shape[:-3] != leading for x in (q, k, v)):
        q, k, v = (x.expand(*leading, *x.shape[-3:]).reshape(-1, *x.shape[-3:]) for x in (q, k, v))
        if mask is not None and mask.ndim > 3:
            mask = mask.expand(*leading, *mask.shape[-3:]).reshape(-1, *mask.shape[-3:])
    if mask is not None:
        while mask.ndim < 4:
            mask = mask.unsqueeze(0)
        # An axis of one row is read wrongly by some fused kernels.
        mask = mask.expand(*mask.shape[:-2], attending.n_query, attending.n_key)
    return FourAxes(q, k, v, mask, square_causal, leading)


def weights_naive(q: Tensor, k: Tensor, attending: Attending) -> Tensor:
    """Return the attention weights a, (..., n_heads, n_query, n_key); rows that may attend to nothing are zero."""
    scores = q @ repeat_heads(k, attending.n_heads).mT * attending.scale_for(q.shape[-1])
    allowed = attending.allowed(q.device)
    if allowed is None:
        return scores.softmax(-1)
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~allowed, lowest).softmax(-1) * allowed


def scaled_dot_product_naive(q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:
    """Return the same from the whole matrix of weights."""
    return weights_naive(q, k, attending) @ repeat_heads(v, attending.n_heads)
