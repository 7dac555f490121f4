"""What every estimator is given: finite points, the last of which has a label that nobody may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.tasks.shapes import Inputs, Labels

Features: TypeAlias = Callable[[Tensor], Tensor]
"""A map x -> φ(x) of (..., n_points, d) to (..., n_points, n_features)."""


def checked_points(inputs: Inputs, labels: Labels) -> tuple[Inputs, Labels]:
    """Return the same points, with zero for the last label: no prefix has it, so it may be unknown (NaN).

    Raises:
        UserError: shapes or dtypes that do not fit, no point, or a number that is not finite or whose square is not.
    """
    empty = 0 in (*inputs.shape, *labels.shape)
    if inputs.ndim < 2 or labels.ndim < 2 or inputs.shape[:-1] != labels.shape[:-1] or empty:
        raise UserError(
            f"inputs have shape {tuple(inputs.shape)} and labels {tuple(labels.shape)}: they must be (..., n_points, "
            "d) and (..., n_points, d_y), with equal leading axes and none of them empty."
        )
    if inputs.dtype not in (torch.float32, torch.float64) or inputs.dtype != labels.dtype:
        raise UserError(
            f"inputs are {inputs.dtype} and labels {labels.dtype}: estimators take both in float32 or both in float64."
        )
    known = labels[..., :-1, :]
    for name, tensor in (("inputs", inputs), ("labels", known)):
        # Squares that add up to a finite number are those of finite numbers: one pass in the common case.
        if not tensor.detach().square().sum((-2, -1)).isfinite().all():
            check_finite(name, tensor)
            raise UserError(f"{name} hold numbers whose squares, added up, leave the range of {tensor.dtype}.")
    return inputs, torch.cat([known, torch.zeros_like(labels[..., -1:, :])], -2)


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity.

    Raises:
        UserError: an entry is not finite.
    """
    # A finite sum is the cheap proof; an infinite one may have overflowed.
    if not tensor.detach().sum().isfinite() and not tensor.detach().isfinite().all():
        raise UserError(f"{name} of shape {tuple(tensor.shape)} hold NaN or infinity: every number must be finite.")


def check_single_range(inputs: Float[Tensor, "*batch n d"]) -> None:
    """Refuse inputs that float32 cannot hold, which is what scikit-learn's trees keep them in.

    Raises:
        UserError: an input is too large.
    """
    largest = float(inputs.detach().abs().max())
    if largest > torch.finfo(torch.float32).max:
        raise UserError(f"an input is {largest:.3g}: trees hold inputs in float32, whose largest number is 3.4e38.")


def mapped(features: Features | None, inputs: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n n_features"]:
    """φ(x) for every input, or the inputs themselves without a map.

    Raises:
        UserError: `features` gives another number of points, another dtype, or a number that is not finite.
    """
    if features is None:
        return inputs
    phi = features(inputs)
    if phi.shape[:-1] != inputs.shape[:-1] or phi.dtype != inputs.dtype:
        raise UserError(
            f"features gave shape {tuple(phi.shape)} in {phi.dtype} for inputs of shape {tuple(inputs.shape)} in "
            f"{inputs.dtype}: all axes but the last, and the dtype, must stay the same."
        )
    check_finite("features of the inputs", phi)
    return phi
