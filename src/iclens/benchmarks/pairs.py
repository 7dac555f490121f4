"""Timing in interleaved pairs: A, B, A, B, …, so that a machine whose speed drifts slows both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """How long A takes against B, pair by pair.

    Attributes:
        median: median of the ratios.
        low: smallest ratio.
        high: largest ratio.
        seconds_a: median seconds of A, once.
        seconds_b: median seconds of B, once.
        ratios: all of them, in the order in which they were measured.
        repeats_a: times that A ran in each pair.
        repeats_b: times that B ran in each pair.
    """

    median: float
    low: float
    high: float
    seconds_a: float
    seconds_b: float
    ratios: tuple[float, ...]
    repeats_a: int
    repeats_b: int


def ratio(
    a: Callable[[], object],
    b: Callable[[], object],
    pairs: int = 9,
    *,
    repeat: bool = True,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> Ratio:
    """Time `a` against `b`.

    Args:
        a: a call.
        b: another.
        pairs: how many.
        repeat: run the faster one as often as it takes to last as long as the slower one, so that what else the machine
            does slows both alike.
        warm_up: run both once before, so that what loads, compiles or fills caches is not timed.
        clock: seconds.
    """
    least = 1e-9
    if warm_up:
        a()
        b()
    repeats_a = repeats_b = 1
    if repeat:
        first_a, first_b = _seconds(a, 1, clock), _seconds(b, 1, clock)
        repeats_a = max(1, round(first_b / max(first_a, least)))
        repeats_b = max(1, round(first_a / max(first_b, least)))
    times_a, times_b = [], []
    for _ in range(pairs):
        times_a.append(_seconds(a, repeats_a, clock))
        times_b.append(_seconds(b, repeats_b, clock))
    ratios = tuple(x / max(y, least) for x, y in zip(times_a, times_b, strict=True))
    return Ratio(
        median=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        seconds_a=statistics.median(times_a),
        seconds_b=statistics.median(times_b),
        ratios=ratios,
        repeats_a=repeats_a,
        repeats_b=repeats_b,
    )


def _seconds(call: Callable[[], object], times: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(times):
        call()
    return (clock() - start) / times
