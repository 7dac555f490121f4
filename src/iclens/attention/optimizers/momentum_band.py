"""Causal momentum attention from one pass of PyTorch's fused kernel and a band beside the diagonal, on a CPU.

The weights 1 − μ^{1 + r} differ from 1 for young pairs only, to rounding. With a_ti = e^{s q_tᵀk_i − ℓ_t} of the fused
kernel and its ℓ_t, let b_ti = a_ti μ^{1 + r} within the band and m_t = Σ_i b_ti:

    h_t = (Σ_i a_ti v_i − Σ_i b_ti v_i)/(1 − m_t),     ℓ'_t = ℓ_t + log(1 − m_t).

The backward pass is that of the kernel, handed h and ℓ', less the band: for an incoming gradient g the gradient of a
score is (e^{s q_tᵀk_i − ℓ'_t} − b'_ti)(g_tᵀv_i − g_tᵀh_t), b'_ti = b_ti/(1 − m_t), and the kernel forms the first term.
A band is two blocks of keys for each block of queries, so that no entry of the others is touched.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.scaled_dot_product import four_axes
from iclens.attention.strength import Strength
from iclens.attention.transformed import is_transformed

_LEAST_BLOCK = 32


def fits(q: Tensor, k: Tensor, v: Tensor, attending: Attending, momentum: Strength) -> bool:
    """Return whether the kernel is there for these tensors, and a band is less than half of the keys."""
    if not attending.is_causal or attending.mask is not None or attending.n_query != attending.n_key:
        return False
    if any(x.device.type != "cpu" for x in (q, k, v)) or torch.compiler.is_compiling() or is_transformed(q, k, v):
        return False
    if q.dtype not in (torch.float32, torch.float64) or q.shape[-1] != v.shape[-1]:
        return False
    if isinstance(momentum, Tensor) and (momentum.ndim > 1 or momentum.requires_grad or is_transformed(momentum)):
        return False
    return 4 * _block(momentum, q.dtype) <= attending.n_key


def _block(momentum: Strength, dtype: torch.dtype) -> int:
    """How many pairs the weights of which are not 1 to rounding, in steps of 16."""
    largest = float(torch.as_tensor(momentum).max())
    if largest == 0:
        return _LEAST_BLOCK
    count = math.log(torch.finfo(dtype).eps / 8) / math.log(largest)
    return max(_LEAST_BLOCK, 16 * math.ceil(count / 16))


def momentum_band(q: Tensor, k: Tensor, v: Tensor, attending: Attending, momentum: Strength) -> Tensor:
    """`momentum_attention` under a causal mask, (..., n_heads, n_query, d_v), where it `fits`."""
    # The kernel reads the last axis without a stride.
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    given = four_axes(q, repeat_heads(k, attending.n_heads), repeat_heads(v, attending.n_heads), attending)
    size = _block(momentum, q.dtype)
    decay = torch.as_tensor(momentum, dtype=torch.float64).reshape(-1, 1, 1, 1).log() * _ages(size)
    # A pair that is still to come has no age.
    decay = torch.where(_ages(size) > 0, decay, -torch.inf).to(q.dtype)
    return given.restored(_Banded.apply(given.q, given.k, given.v, decay, attending.scale_for(q.shape[-1])))


def _ages(size: int) -> Tensor:
    """1 + r of the keys of the block before and the own one, for each query of a block; (size, 2 size)."""
    return 1 + torch.arange(size, 2 * size).unsqueeze(-1) - torch.arange(2 * size)


def _blocks(x: Tensor, size: int) -> Tensor:
    """Rows in blocks, (..., n_block, size, width), the last filled up with zeros."""
    return pad(x, (0, 0, 0, -x.shape[-2] % size)).unflatten(-2, (-1, size))


def _with_earlier(blocks: Tensor) -> Tensor:
    """Each block behind the one before it, (..., n_block, 2 size, width); zeros before the first."""
    return torch.cat([pad(blocks[..., :-1, :, :], (0, 0, 0, 0, 1, 0)), blocks], -2)


def _add_blocks(total: Tensor, x: Tensor, alpha: float) -> None:
    """total += alpha · the rows behind `_with_earlier(_blocks(total))`, each in its two places."""
    size = x.shape[-2] // 2
    rows = x[..., size:, :].contiguous()
    rows[..., :-1, :, :] += x[..., 1:, :size, :]
    total.add_(rows.flatten(-3, -2)[..., : total.shape[-2], :], alpha=alpha)


def _band(q: Tensor, k: Tensor, lse: Tensor, decay: Tensor, scale: float) -> Tensor:
    """b_ti = e^{s q_tᵀk_i − ℓ_t} μ^{1 + r}, (..., n_block, size, 2 size)."""
    size = decay.shape[-2]
    scores = _blocks(q * scale, size) @ _with_earlier(_blocks(k, size)).mT
    scores += decay
    scores -= _blocks(lse.unsqueeze(-1), size)
    # Before the first block there is nothing.
    scores[..., 0, :, :size] = -torch.inf
    return scores.exp_()


class _Banded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, scale: float) -> Tensor:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, is_causal=True, scale=scale)
        n, size = q.shape[-2], decay.shape[-2]
        band = _band(q, k, lse, decay, scale)
        left = (1 - band.sum(-1)).flatten(-2)[..., :n]
        _add_rows(out, band @ _with_earlier(_blocks(v, size)), -1.0)
        out /= left.unsqueeze(-1)
        lse = lse + left.log()
        ctx.scale = scale
        ctx.save_for_backward(q, k, v, decay, out, lse)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, decay, out, lse = ctx.saved_tensors
        scale, size = ctx.scale, decay.shape[-2]
        gradient = gradient.contiguous()
        grad_q, grad_k, grad_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, q, k, v, out, lse, 0.0, True, scale=scale
        )
        band = _band(q, k, lse, decay, scale)
        of_out, keys = _blocks(gradient, size), _with_earlier(_blocks(k, size))
        _add_blocks(grad_v, band.mT @ of_out, -1.0)
        along = of_out @ _with_earlier(_blocks(v, size)).mT
        along -= _blocks((gradient * out).sum(-1, keepdim=True), size)
        along *= band
        _add_rows(grad_q, along @ keys, -scale)
        _add_blocks(grad_k, along.mT @ _blocks(q, size), -scale)
        return grad_q, grad_k, grad_v, None, None


def _add_rows(total: Tensor, blocks: Tensor, alpha: float) -> None:
    """total += alpha · blocks of queries, without the rows that filled the last one up."""
    total.add_(blocks.flatten(-3, -2)[..., : total.shape[-2], :], alpha=alpha)
