"""The functions of two variants from whole matrices of weights: what the fast ones are held against."""

from __future__ import annotations

import torch

from iclens.attention import Attending, build
from iclens.attention.attending import repeat_heads
from iclens.attention.scaled_dot_product import weights_naive


def negative_attention_naive(q, k, v, mask=None, *, scale=None, is_causal=False, **options):
    """`negative_attention` from the naive form of its module."""
    sizes = {"n_heads": q.shape[-3], "n_kv_heads": k.shape[-3], "d": q.shape[-1], "d_v": v.shape[-1]}
    variant = build("negative", **sizes, **options)
    how = {"scale": scale, "is_causal": is_causal, "self_aligned": variant.self_aligned}
    return variant.naive(q, k, v, Attending.of(q, k, v, mask, **how))


def weight_decay_attention_naive(q, k, v, mask=None, *, alpha, demonstrations=None, **how):
    """`weight_decay_attention`: (1 − α) times the weights of what is not a demonstration, then times the values."""
    attending = Attending.of(q, k, v, mask, self_aligned=demonstrations is None, **how)
    weights = weights_naive(q, k, attending)
    own = torch.eye(attending.n_key, dtype=torch.bool)[-attending.n_query :]
    untrained = own if demonstrations is None else ~demonstrations
    strength = alpha[..., None, None] if isinstance(alpha, torch.Tensor) else alpha
    return (weights - strength * (weights * untrained)) @ repeat_heads(v, attending.n_heads)
