"""What counts as exact: the largest residuals accepted, and what a path's residual is taken relative to."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Largest residual accepted as exact, by the type of the weights: rounding through all layers of a deep model."""

NOISES = 4
"""How many times the measured noise of half precision is accepted where a residual exceeds `TOLERANCE`: of 45 random
models the worst residual was 2 times for two forward passes, 3 times for a path."""

MOST = 0.5
"""Never more is accepted: parts that are all zero are off by one."""

_ROUNDINGS = 64
"""Of the last digit, by which a logit may be off at the end of a deep model."""


def tolerance_of(dtype: torch.dtype) -> float:
    """`TOLERANCE`, and that of single precision for types that it does not name."""
    return TOLERANCE.get(dtype, TOLERANCE[torch.float32])


def is_half(dtype: torch.dtype) -> bool:
    """Return whether a type has two bytes, so that rounding is seen in the second or third digit."""
    return dtype.itemsize == 2


def path_residual(
    total: Float[Tensor, "*batch"],
    margin: Float[Tensor, "*batch"],
    largest_part: Float[Tensor, "*batch"],
    largest_logit: Float[Tensor, "*batch"],
    dtype: torch.dtype,
) -> Float[Tensor, "*batch"]:
    """How far the sum of a path's parts is from the model's own margin, relative to what is known of that margin.

    |total − margin| / max(|margin|, |largest part|, u / tolerance), with the `uncertainty` u: a margin is known no
    better than the logits that nearly cancel in it, the largest |weight · logit| that it adds up. Where |margin| ≤ u,
    so that nothing is known of it, u does not count: parts cannot be right about a number that the model itself does
    not know.
    """
    tolerance = tolerance_of(dtype)
    size = torch.maximum(margin.abs(), largest_part)
    unsure = uncertainty(largest_logit, dtype)
    size = torch.where(margin.abs() > unsure, torch.maximum(size, unsure / tolerance), size)
    return (total - margin).abs() / size.clamp_min(torch.finfo(size.dtype).tiny)


def uncertainty(largest_logit: Float[Tensor, "*batch"], dtype: torch.dtype) -> Float[Tensor, "*batch"]:
    """What the rounding of a model's logits leaves open in their difference: min(tolerance, 64 ε) · |largest logit|."""
    return min(tolerance_of(dtype), _ROUNDINGS * torch.finfo(dtype).eps) * largest_logit
