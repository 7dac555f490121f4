"""Timing in interleaved pairs: A, B, A, B, …, so that a machine whose speed drifts slows both alike."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ratio:
    """How long A takes against B, pair by pair.

    Attributes:
        median: median of the ratios.
        low: smallest ratio.
        high: largest ratio.
        seconds_a: median seconds of A.
        seconds_b: median seconds of B.
    """

    median: float
    low: float
    high: float
    seconds_a: float
    seconds_b: float


def ratio(a: Callable[[], object], b: Callable[[], object], pairs: int = 9, warm_up: int = 2) -> Ratio:
    """Time `a` against `b`."""
    for _ in range(warm_up):
        a()
        b()
    times_a, times_b = [], []
    for _ in range(pairs):
        for call, times in ((a, times_a), (b, times_b)):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    ratios = sorted(x / y for x, y in zip(times_a, times_b, strict=True))
    return Ratio(
        statistics.median(ratios), ratios[0], ratios[-1], statistics.median(times_a), statistics.median(times_b)
    )


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
