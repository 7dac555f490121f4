"""A variant in training, with dropout on the weights of its softmax."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from iclens.attention.attending import Attending
from iclens.attention.variant import AttentionVariant


def with_dropout(
    variant: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    scale: float | None,
    is_causal: bool,
    dropout_p: float,
) -> Tensor:
    """`variant(q, k, v, mask)` with every weight of the softmax part zeroed with probability `dropout_p`.

    The weights that stay are divided by 1 − dropout_p. What the variant subtracts or does afterwards is left alone. A
    variant with its own attention (linear attention, for one) has no softmax weights to drop and runs as it is.

    Args:
        variant: the variant, or an adapter's wrapping of it.
        q: (batch, heads, n_query, d).
        k: (batch, key heads, n_key, d).
        v: (batch, key heads, n_key, d_v).
        mask: bool (batch, 1 or heads, n_query, n_key), True = may attend; or None.
        scale: factor of the scores.
        is_causal: the queries are the last tokens and see no later key.
        dropout_p: in [0, 1).
    """
    inner = _unwrapped(variant)
    if any(getattr(type(inner), hook) is not getattr(AttentionVariant, hook) for hook in ("forward", "run", "attend")):
        return variant(q, k, v, mask, scale=scale, is_causal=is_causal)
    attending = Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal, self_aligned=inner.self_aligned)
    k, v = inner.modified(k, v, attending)
    # Torch aligns causality to the first key, and the variants to the last.
    square = is_causal and mask is None and q.shape[-2] == k.shape[-2]
    out = scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=None if square else attending.allowed(q.device),
        is_causal=square,
        dropout_p=dropout_p,
        scale=scale,
        enable_gqa=q.shape[-3] != k.shape[-3],
    )
    offset = inner.offset(q, k, v, attending)
    return inner.after(out if offset is None else out - offset)


def _unwrapped(variant: Any) -> AttentionVariant:
    """Return the variant that PEFT's wrapping of it would call."""
    if isinstance(variant, AttentionVariant):
        return variant
    adapters = [] if variant.disable_adapters else variant.active_adapters
    return variant.modules_to_save[adapters[0]] if adapters else variant.original_module
