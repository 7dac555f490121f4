"""Products of float32 matrices on a CPU by the faster of PyTorch's two libraries, where it is as exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_SHAPES = ((1296, 256, 1024), (1024, 1296, 256), (48, 32, 96), (7, 5, 3))
"""Rows, inner width and columns of the products that are checked."""

_MUCH_LESS_EXACT = 4.0
"""How much larger than the default library's an error may be; bfloat16 inside would make it a thousand times larger."""


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W_r + b_r for every run r.

    On a CPU in float32 the three products of forward and backward go to oneDNN where that is exact: PyTorch's default,
    MKL, runs far below the peak on processors of other makers (`iclens bench training`: a step in half
    the time of a plain loop on one of them). Only these products: fused attention is slower with it. The naive
    reference is `affine_naive`.

    Args:
        x: rows, (runs, n, width_in).
        weight: (runs, width_in, width_out).
        bias: (runs, width_out), or None.
    """
    if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or not _is_gain(x):
        return affine_naive(x, weight, bias)
    return _Affine.apply(x, weight, bias)


def fast_products(like: Tensor) -> AbstractContextManager[None]:
    """Inside, products of matrices such as this one go to the faster library where it is as exact.

    Args:
        like: one of them; only its device and dtype count.
    """
    return _by_onednn() if _is_gain(like) else nullcontext()


def affine_naive(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`affine` by PyTorch's default library."""
    if bias is None:
        return x @ weight
    if len(x) == 1:
        return torch.addmm(bias[0], x[0], weight[0]).unsqueeze(0)
    return torch.baddbmm(bias.unsqueeze(1), x, weight)


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        with _by_onednn():
            return affine_naive(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        with _by_onednn():
            if ctx.needs_input_grad[0]:
                of_x = _product(gradient, weight.mT)
            if ctx.needs_input_grad[1]:
                of_weight = _product(x.mT, gradient)
        of_bias = gradient.sum(1) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return of_x, of_weight, of_bias


def _product(one: Tensor, other: Tensor) -> Tensor:
    # A batch of one would be copied where it is transposed.
    return (one[0] @ other[0]).unsqueeze(0) if len(one) == 1 else one @ other


def _is_gain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and _is_exact()


@contextmanager
def _by_onednn() -> Iterator[None]:
    """PyTorch hands products to oneDNN when their precision may be "medium", which allows bfloat16 inside.

    Whether a processor does use bfloat16 then is checked once, by the error of some products, and never assumed
    (`_is_exact`). The choice rests on no timing, so that it is the same every time.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def _is_exact() -> bool:
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        # The caller has set precisions by the newer, finer interface, which must not be mixed with this one.
        return False
    generator = torch.Generator().manual_seed(0)
    try:
        for rows, inner, columns in _SHAPES:
            one = torch.randn(2, rows, inner, generator=generator, dtype=torch.float32)
            other = torch.randn(2, inner, columns, generator=generator, dtype=torch.float32)
            exact = one.double() @ other.double()
            errors = []
            for precision in ("highest", "medium"):
                torch.set_float32_matmul_precision(precision)
                together, single = one @ other, one[0] @ other[0]
                errors.append(float((together - exact).norm() + (single - exact[0]).norm()))
            if errors[1] > _MUCH_LESS_EXACT * errors[0]:
                return False
    finally:
        torch.set_float32_matmul_precision(before)
    return True
