"""The exponent of a measured cost: the slope of log seconds over log size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Exponent:
    """Cost ∝ size^p.

    Attributes:
        median: p fitted to the medians of all sizes.
        low: smallest p of the single rounds.
        high: largest p of the single rounds.
        last: p between the two largest sizes: where the cost is heading.
    """

    median: float
    low: float
    high: float
    last: float


def slope(sizes: Sequence[float | int], seconds: Sequence[float | int]) -> float:
    """Least-squares slope of log seconds over log size.

    Raises:
        ValueError: fewer than two different sizes, or a number that is not positive.
    """
    if len(set(sizes)) < 2 or min(*sizes, *seconds) <= 0:
        raise ValueError("an exponent needs two different sizes and positive numbers.")
    x, y = ([math.log(value) for value in values] for values in (sizes, seconds))
    return statistics.linear_regression(x, y).slope


def exponent(sizes: Sequence[float | int], rounds: Sequence[Sequence[float | int]]) -> Exponent:
    """Fit the exponent to rounds of seconds, one number a size in each round."""
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    each = [slope(sizes, one) for one in rounds]
    return Exponent(slope(sizes, medians), min(each), max(each), slope(sizes[-2:], medians[-2:]))
