"""Parts of a network that return their own output, with the gradient of a linear map: what is held is a constant.

The forward pass costs what the part itself costs. In the backward pass attention weights are formed again in blocks of
rows, for the values alone, which is less work than the fused kernel's gradient of queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.autograd import Function

from iclens.lens.model.norms import pull_back, ratio
from iclens.lens.model.placed import at_hand
from iclens.lens.model.session import AttentionCall, Handler
from iclens.lens.read.attend import MOST_SCORES, blocks, softmax_rows

_ROWS = 128
"""Queries of a block: small enough that a causal layer skips most of the keys that they do not see."""


def held_attention(call: AttentionCall, attend: Handler) -> Tensor:
    """The heads' output by `attend`, linear in the values: attention weights take no gradient."""
    return _Attention.apply(call.v, call.q.detach(), call.k.detach(), call, attend)


def held_norm(norm: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A norm's own output y for the input x, with its scale held: affine in x."""
    return _Elementwise.apply(x, [y.detach()], lambda x, y, gradient: pull_back(norm, x, y, gradient), norm)


def held_ratio(activation: nn.Module, u: Tensor, y: Tensor) -> Tensor:
    """An activation's own output y for the input u, with y / u held: linear in u."""
    return _Elementwise.apply(u, [y.detach()], lambda u, y, gradient: gradient * ratio(activation, u, y), activation)


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, q: Tensor, k: Tensor, call: AttentionCall, attend: Handler) -> Tensor:
        # Saved rather than kept, so that a model that is brought in layer by layer can put them aside.
        ctx.save_for_backward(q, k)
        ctx.call = replace(call, q=q[:0], k=k[:0], v=v[:0])
        return attend(replace(call, q=q.detach(), k=k.detach(), v=v.detach()))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k = ctx.saved_tensors
        return pull_to_values(replace(ctx.call, q=q, k=k), gradients[0]), None, None, None, None


class _Elementwise(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: list[Tensor], back: Callable[..., Tensor], module: nn.Module) -> Tensor:
        ctx.save_for_backward(x, *y)
        ctx.back, ctx.module = back, module
        return y[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with at_hand(ctx.module):
            return ctx.back(*ctx.saved_tensors, gradients[0]), None, None, None


def pull_to_values(
    call: AttentionCall, gradient: Tensor, *, rows: int = _ROWS, most_scores: int = MOST_SCORES
) -> Tensor:
    """Σ_t α_tj gradient_t for every key j: the gradient of the heads' output with respect to the values.

    From the gradient of that output, (batch, query heads, n_query, d_v), and a call whose values are not used; weights
    are formed for some queries at once, `rows` and `most_scores` at most.
    """
    batch, key_heads, n_key = call.k.shape[:3]
    pulled = gradient.new_zeros(batch, key_heads, n_key, gradient.shape[-1])
    for some, keys, mask in blocks(call, most_scores, rows):
        weights = softmax_rows(replace(call, k=call.k[:, :, keys]), call.q[:, :, some], mask[..., keys])
        # Query heads of a group stand side by side, so that their gradients add up in one product.
        folded = weights.reshape(batch, key_heads, -1, weights.shape[-1])
        pulled[:, :, keys] += folded.transpose(-1, -2) @ gradient[:, :, some].reshape(
            batch, key_heads, folded.shape[2], -1
        )
    return pulled
