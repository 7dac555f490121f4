"""The measured values of a run: points of training curves, and errors on evaluation prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")

Curves = dict[str, dict[int, float]]
"""By the name of a metric, its values by their place."""


class Metric(NamedTuple):
    """One measured value.

    Attributes:
        step: optimiser steps done when it was measured.
        name: `"loss"`, the mean training loss since the metric before, or `"error"`, on evaluation prompts.
        prefix: number of demonstrations before the point it is about; None for a value of whole prompts.
        value: of a diverged run also infinite or not a number.
    """

    step: int
    name: str
    prefix: int | None
    value: float


def curves(metrics: Iterable[Metric]) -> tuple[Curves, Curves]:
    """Collect the curves of metrics.

    Returns:
        values of whole prompts, by the step; and those for every number of demonstrations, by that number, at the last
        step.
    """
    whole: Curves = {}
    by_prefix: dict[str, dict[int, dict[int, float]]] = {}
    for row in metrics:
        if row.prefix is None:
            whole.setdefault(row.name, {})[row.step] = row.value
        else:
            by_prefix.setdefault(row.name, {}).setdefault(row.step, {})[row.prefix] = row.value
    return whole, {name: steps[max(steps)] for name, steps in by_prefix.items()}


def spread(values: Sequence[T], most: int = 12) -> list[T]:
    """Choose at most `most` points to show: the first, the last, and some between at equal distances."""
    if len(values) <= most:
        return list(values)
    return [values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)]
