"""What is checked of the options of a task, with one wording for all tasks."""

from __future__ import annotations

import math
from collections.abc import Collection

from iclens.errors import UserError, did_you_mean


def require_counts(**values: int) -> None:
    """Every option is a whole number of at least 1.

    Raises:
        UserError: one is not.
    """
    for name, value in values.items():
        if isinstance(value, bool) or value != value // 1 or value < 1:
            raise UserError(f"{name}={value} must be a whole number, at least 1.")


def require_at_least_zero(**values: float | int) -> None:
    """Every option is a finite number, 0 or more.

    Raises:
        UserError: one is not.
    """
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise UserError(f"{name}={value} must be finite and not negative.")


def require_positive(**values: float | int) -> None:
    """Every option is a finite number above 0.

    Raises:
        UserError: one is not.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise UserError(f"{name}={value} must be finite and positive.")


def require_one_of(name: str, value: str, known: Collection[str]) -> None:
    """The option is one of some words.

    Raises:
        UserError: it is not, with the nearest one that is.
    """
    if value not in known:
        hint = did_you_mean(value, known)
        raise UserError(f"unknown {name} {value!r}.{hint} Known: {', '.join(sorted(known))}.")
