"""Strengths: one number, one a head, or one a run; fixed or learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from iclens.errors import UserError

Strength: TypeAlias = float | int | Tensor
"""A number, or a tensor that broadcasts over the leading axes (..., n_heads) of the output."""


def finite(name: str, value: Strength, x: Tensor) -> Strength:
    """Refuse a number that is not finite, or a tensor that does not fit the heads of `x`, (..., heads, n, width).

    What is in a tensor is taken as it is, so that no device has to wait.
    """
    if not isinstance(value, Tensor):
        if not math.isfinite(value):
            raise UserError(f"{name}={value} must be finite.")
    elif value.ndim and x.ndim > 2:
        _require_heads(name, value, x.shape[-3])
    return value


def below_one(name: str, value: Any, x: Tensor | None = None) -> None:
    """Refuse a number, or a list of numbers, outside [0, 1); tensors as `finite` does."""
    if isinstance(value, str):
        raise UserError(f"{name}={value!r} must be a number.")
    if isinstance(value, Sequence):
        for entry in value:
            below_one(name, entry)
    elif not isinstance(value, Tensor) and not 0 <= value < 1:
        raise UserError(f"{name}={value} must be at least 0 (which is softmax attention) and less than 1.")
    elif x is not None:
        finite(name, value, x)


def _require_heads(name: str, value: Tensor, n_heads: int) -> None:
    if value.ndim and value.shape[-1] not in (1, n_heads):
        raise UserError(f"{name} has {value.shape[-1]} entries; give one number, or one for each of {n_heads} heads.")


def on_heads(value: Strength) -> Strength:
    """Return the strength shaped to multiply (..., n_heads, n, width)."""
    return value[..., None, None] if isinstance(value, Tensor) and value.ndim else value


def times(value: Strength, x: Tensor) -> Tensor:
    """value · x for x (..., n_heads, n, width), in the dtype of x."""
    value = on_heads(value)
    return x * (value.to(x.dtype) if isinstance(value, Tensor) else value)


def is_zero(value: Strength) -> bool:
    """Return whether it is the number 0; a tensor may hold anything."""
    return not isinstance(value, Tensor) and value == 0


class StrengthOption:
    """How a strength is given to a variant's constructor.

    Args:
        name: the option's name, for messages.
        value: a number, or one for each head, or a tensor that broadcasts over (..., n_heads).
        learned: make it an `nn.Parameter`; the given value is where it starts.
        n_heads: number of query heads.

    Raises:
        UserError: not finite, or a list that does not have one number for each head.
    """

    def __init__(self, name: str, value: float | Sequence[float] | Tensor, *, learned: bool, n_heads: int) -> None:
        tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{name}={value} must be finite.")
        _require_heads(name, tensor, n_heads)
        self.name, self.learned = name, learned
        self.start = _numbers(value)
        self.tensor = tensor.clone()

    def attach(self, module: nn.Module) -> None:
        """Put it on `module` under its name: a parameter, a buffer (left out of the checkpoint), or a plain number."""
        if self.learned:
            setattr(module, self.name, nn.Parameter(self.tensor))
        elif self.tensor.ndim:
            module.register_buffer(self.name, self.tensor, persistent=False)
        else:
            setattr(module, self.name, self.start)


def _numbers(value: Any) -> Any:
    """Return the numbers as they were given: a tensor in single precision would turn 0.1 into 0.10000000149."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_numbers(entry) for entry in value] if isinstance(value, Sequence) else float(value)
