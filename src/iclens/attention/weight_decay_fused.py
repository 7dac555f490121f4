"""Weight-decay attention in one pass of PyTorch's fused kernel, forward and backward, on a CPU.

The kernel gives the logarithm of every row's normaliser beside its output, so that the self weight
a_tt = exp(s q_tᵀk_t − lse_t) costs O(n d). Its backward pass needs nothing more either. For the output
h_t = Σ_i a_ti v_i − α a_tt v_t and an incoming gradient g, the gradient of the scores is

    a_ti (g_tᵀv_i − g_tᵀh_t) + [i = t] a_tt w_t,    w_t = −α g_tᵀv_t,

in which the first term is that of plain attention with h_t in the place of Σ_i a_ti v_i: the kernel is handed the one
for the other. The rest is diagonal.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.scaled_dot_product import FourAxes, four_axes
from iclens.attention.strength import Strength, times
from iclens.attention.transformed import is_transformed


def fits(q: Tensor, k: Tensor, v: Tensor, alpha: Strength) -> bool:
    """Return whether the kernel is there for these tensors: on a CPU, values as wide as keys, one α for each output."""
    on_cpu = all(x.device.type == "cpu" for x in (q, k, v)) and not is_transformed(q, k, v)
    return on_cpu and q.shape[-1] == v.shape[-1] and not (isinstance(alpha, Tensor) and alpha.ndim > 1)


def weight_decay_fused(q: Tensor, k: Tensor, v: Tensor, attending: Attending, alpha: Strength) -> Tensor:
    """Σ_i a_ti v_i − α a_tt v_t, (..., n_heads, n_query, d_v), where `fits`."""
    # The kernel reads the last axis without a stride.
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    given = four_axes(q, repeat_heads(k, attending.n_heads), repeat_heads(v, attending.n_heads), attending)
    return given.restored(_Fused.apply(given.q, given.k, given.v, alpha, given, attending))


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, alpha: Strength, given: FourAxes, attending: Attending
    ) -> Tensor:
        mask = given.additive_mask()
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, is_causal=given.is_causal, attn_mask=mask, scale=attending.scale
        )
        exponents = (q.to(lse.dtype) * attending.own(k)).sum(-1) * attending.scale_for(q.shape[-1]) - lse
        if given.mask is not None:
            exponents = exponents.masked_fill(~given.mask.diagonal(attending.first_position, -2, -1), -torch.inf)
        weights = exponents.exp()
        out.addcmul_(times(alpha, weights.unsqueeze(-1)).to(v.dtype), attending.own(v), value=-1)
        ctx.attending, ctx.is_causal, ctx.alpha = attending, given.is_causal, alpha
        ctx.save_for_backward(q, k, v, out, lse, weights, mask)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, weights, mask = ctx.saved_tensors
        attending: Attending = ctx.attending
        own_k, own_v = attending.own(k), attending.own(v)
        grad_q, grad_k, grad_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, q, k, v, out, lse, 0.0, ctx.is_causal, attn_mask=mask, scale=attending.scale
        )
        along_own = weights * (gradient.to(weights.dtype) * own_v).sum(-1)
        scores = times(ctx.alpha, along_own.unsqueeze(-1)).to(q.dtype)
        scale = attending.scale_for(q.shape[-1])
        grad_q.addcmul_(scores, own_k, value=-scale)
        attending.own(grad_k).addcmul_(scores, q, value=-scale)
        attending.own(grad_v).addcmul_(times(ctx.alpha, weights.unsqueeze(-1)).to(v.dtype), gradient, value=-1)
        grad_alpha = None
        if ctx.needs_input_grad[3]:
            total = -along_own.sum(-1)
            grad_alpha = total.sum_to_size(ctx.alpha.shape).to(ctx.alpha.dtype)
        return grad_q, grad_k, grad_v, grad_alpha, None, None
