"""Tensors of any shape, type, layout and size of numbers, and what a public function may do with them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from iclens.errors import UserError

LONG = bool(os.environ.get("ICLENS_FUZZ_LONG"))


def examples(number: int) -> settings:
    """So many examples in `make test`, ten times as many in `make test-faults`."""
    return settings(
        max_examples=number * (10 if LONG else 1),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


FLOATS = [torch.float64, torch.float32]
DTYPES = [*FLOATS, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64]

KINDS = [
    "normal", "normal", "normal", "zeros", "equal", "tiny", "subnormal", "large", "mixed", "huge", "nan", "inf", "-inf",
]  # fmt: skip
"""Sizes of numbers. Products of two "large" ones are in the range of their dtype; those of two "huge" ones are not."""

LAYOUTS = ["plain", "plain", "transposed", "stepped", "expanded", "offset", "gradient"]


def values(kind: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    top = torch.finfo(dtype if dtype.is_floating_point else torch.float32).max
    least = torch.finfo(dtype if dtype.is_floating_point else torch.float32).tiny
    if kind == "zeros":
        drawn = drawn * 0
    elif kind == "equal":
        drawn = torch.full(shape, 0.5, dtype=torch.float64)
    elif kind == "tiny":
        drawn = drawn * least**0.5
    elif kind == "subnormal":
        drawn = drawn.sign() * least / 8
    elif kind == "large":
        drawn = drawn.clamp(-4, 4) * top**0.5 / 1e3
    elif kind == "mixed":
        drawn = drawn.clamp(-4, 4) * torch.logspace(-20, 12, drawn.numel(), dtype=torch.float64).view(shape)
    elif kind == "huge":
        drawn = drawn.sign() * top / 2
    elif kind in ("nan", "inf", "-inf") and drawn.numel():
        drawn.view(-1)[seed % drawn.numel()] = float(kind)
    if dtype == torch.bool:
        return drawn > 0
    if dtype == torch.int64:
        return drawn.nan_to_num(0.0, 7.0, -7.0).clamp(-9, 9).to(dtype)
    return drawn.to(dtype)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same numbers, stored another way."""
    if layout == "transposed" and tensor.ndim >= 2:
        return tensor.mT.contiguous().mT
    if layout == "stepped" and tensor.ndim:
        return tensor.repeat_interleave(2, -1)[..., ::2]
    if layout == "expanded" and tensor.ndim >= 3 and len(tensor):
        return tensor[:1].expand(tensor.shape)
    if layout == "offset" and tensor.ndim:
        return torch.cat([tensor[:1], tensor])[1:] if len(tensor) else tensor
    if layout == "gradient" and tensor.is_floating_point():
        return tensor.clone().requires_grad_()
    return tensor


@st.composite
def tensors(draw: Any, shape: tuple[int, ...], dtypes: Iterable[torch.dtype] = FLOATS, kinds: Iterable[str] = KINDS):
    """A tensor of that shape."""
    kind, dtype = draw(st.sampled_from(list(kinds))), draw(st.sampled_from(list(dtypes)))
    seed, layout = draw(st.integers(0, 10_000)), draw(st.sampled_from(LAYOUTS))
    return laid_out(values(kind, shape, dtype, seed), layout)


def refused(call: Callable[[], Any]) -> Any:
    """What the call gives, or None when it was refused in the one way that is allowed.

    Runtime checks of shapes and types, which tests run with, may refuse as well.
    """
    try:
        return call()
    except (UserError, TypeCheckError):
        return None


def is_moderate(*given: Tensor) -> bool:
    """Whether all numbers are finite and products of two of them, added up, stay within the dtype's range."""
    return all(
        bool(one.isfinite().all()) and float(one.detach().abs().max() if one.numel() else 0.0) < _limit(one)
        for one in given
    )


def multiply_in_range(*given: Tensor) -> bool:
    """Whether products of one number of each, added up, stay within the dtype's range."""
    sizes = [float(one.detach().abs().max()) if one.numel() else 0.0 for one in given]
    return not all(sizes) or sum(map(math.log10, sizes)) < math.log10(torch.finfo(given[0].dtype).max) - 4


def _limit(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).max ** 0.5 / 100 if tensor.is_floating_point() else 0.0
