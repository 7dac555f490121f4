"""One measured value of a run: a point of a training curve, or an error on evaluation prompts."""

from __future__ import annotations

from typing import NamedTuple


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
