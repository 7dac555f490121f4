"""Numbers as places on a drawing, whose round marks are found by hand: a page needs no plotting library for a bar."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from iclens.intervals import Estimate

_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Scale:
    """A stretch of numbers laid along a stretch of a drawing.

    Attributes:
        low, high: the numbers at its ends.
        start, end: where these lie, in the drawing's own units.
    """

    low: float | int
    high: float | int
    start: float | int = 0.0
    end: float | int = 100.0

    def __call__(self, value: float | int) -> float:
        """Where a number lies, to two decimals; what lies beyond an end lies there."""
        share = (min(max(value, self.low), self.high) - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers within the stretch, about `most` of them."""
        raw = (self.high - self.low) / most or 1.0
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(one * power for one in _STEPS if one * power >= raw * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def is_finite(value: Estimate) -> bool:
    """Whether an estimate and its interval have places on a drawing."""
    return all(map(math.isfinite, (value.mean, value.low, value.high)))


def around_zero(values: Iterable[float | int | None]) -> Scale:
    """A scale with zero in its middle that holds all numbers."""
    most = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0) or 1.0
    return Scale(-most, most)


def holding(values: Iterable[float | int], start: float | int, end: float | int) -> Scale:
    """A scale that holds all numbers, with a little room at either end where they are all the same."""
    known = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    room = 0.0 if high > low else abs(low) / 2 or 0.5
    return Scale(low - room, high + room, start, end)
