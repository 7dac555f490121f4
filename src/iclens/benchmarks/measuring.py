"""From an entry of a case to its numbers: agreement first, then times, memory, and the gap to the floor."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from iclens.benchmarks.case import Absent, Agreement, Comparison, Context, Curve, Entry, Listing, Probe, Target
from iclens.benchmarks.ceilings import Floor
from iclens.benchmarks.exponent import Exponent, exponent
from iclens.benchmarks.memory import peak_bytes
from iclens.benchmarks.pairs import Ratio, ratio

MEBIBYTE = 2**20

MOST_ROUNDS = 5
"""Of a curve: each runs every size."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Judged:
    """A target with what was measured; `value` is None when that could not be measured."""

    target: Target
    value: float | None

    @property
    def reached(self) -> bool | None:
        """None when it was not measured."""
        return None if self.value is None else self.target.reached(self.value)


@dataclass(frozen=True)
class Gap:
    """How far ours is from the floor.

    Attributes:
        seconds: the floor: the larger of its bounds.
        bound_by: which ceiling that is.
        bounds: seconds of the operations and of the bytes at their ceilings.
        times: our seconds over the floor's.
        kernel_seconds: of a routine that does only what the floor counts; None without one.
        kernel_times: our seconds over the routine's, in interleaved pairs.
    """

    seconds: float
    bound_by: str
    bounds: dict[str, float]
    times: float
    kernel_seconds: float | None = None
    kernel_times: float | None = None


@dataclass(frozen=True)
class Compared:
    """A comparison's numbers. Without agreement there is no time.

    Attributes:
        entry: the comparison.
        agreements: the outputs' differences.
        speed_up: their seconds over ours; None when outputs disagree.
        peaks: peak MiB of ours and of the other, each None where unmeasured.
        gap: to the floor; None without one.
        targets: what had to be reached.
    """

    entry: Comparison
    agreements: tuple[Agreement, ...]
    speed_up: Ratio | None = None
    peaks: tuple[float | None, float | None] = (None, None)
    gap: Gap | None = None
    targets: tuple[Judged, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether every output agrees."""
        return bool(self.agreements) and all(one.holds for one in self.agreements)

    @property
    def memory_share(self) -> float | None:
        """Our peak memory over theirs, a ratio; None where either was not measured."""
        ours, other = self.peaks
        return None if ours is None or not other else ours / other

    @property
    def good(self) -> bool:
        """Outputs agree and no target is missed."""
        return self.agrees and all(judged.reached is not False for judged in self.targets)


@dataclass(frozen=True)
class Grown:
    """A curve's numbers: for each line the seconds of every size, and the exponent."""

    entry: Curve
    seconds: dict[str, list[float]]
    exponents: dict[str, Exponent]
    good: bool = True


Result = Compared | Grown | Listing | Absent
"""What needs no measuring is its own result."""


@dataclass(frozen=True)
class CaseResult:
    """What was measured of one case, and how long it took.

    Attributes:
        name: of the case.
        description: its one line.
        results: in the order of the case.
        seconds: how long it took in all.
    """

    name: str
    description: str
    results: tuple[Result, ...]
    seconds: float = field(default=0.0)

    @property
    def good(self) -> bool:
        """Outputs agree, targets are reached, verdicts hold."""
        return all(result.good for result in self.results)


def measure(entry: Entry, context: Context, progress: Progress = lambda text: None) -> Result:
    """Check that the outputs of an entry agree, then time it. What is absent or only listed is its own result."""
    if isinstance(entry, Absent | Listing):
        return entry
    if isinstance(entry, Curve):
        progress(entry.what)
        return _grown(entry, context)
    return _compared(entry, context, progress)


def _compared(entry: Comparison, context: Context, progress: Progress) -> Compared:
    progress(f"{entry.what}: outputs against {entry.other.name}")
    agreements = tuple(entry.check())
    compared = Compared(entry, agreements)
    if not compared.agrees:
        return compared
    progress(f"{entry.what}: times against {entry.other.name}")
    ours, other = (context.finished(side.call) for side in (entry.ours, entry.other))
    pairs = min(context.pairs, entry.most_pairs or context.pairs)
    speed_up = ratio(other, ours, pairs, repeat=entry.repeat, warm_up=entry.warm_up)
    progress(f"{entry.what}: memory against {entry.other.name}")
    peaks = (_peak(entry.ours.probe, context), _peak(entry.other.probe, context))
    gap = None if entry.floor is None else _gap(entry.floor, ours, speed_up.seconds_b, context)
    compared = Compared(entry, agreements, speed_up, peaks, gap)
    values = {"speed-up": speed_up.median, "memory share": compared.memory_share, "seconds": speed_up.seconds_b}
    targets = tuple(Judged(target, values[target.quantity]) for target in entry.targets)
    return Compared(entry, agreements, speed_up, peaks, gap, targets)


def _peak(probe: Probe | None, context: Context) -> float | None:
    if probe is None:
        return None
    key = json.dumps([probe.target, dict(probe.arguments), probe.with_building], sort_keys=True)
    if key not in context.peaks:
        context.peaks[key] = peak_bytes(probe, threads=context.threads, device=context.device)
    found = context.peaks[key]
    return None if found is None else found / MEBIBYTE


def _gap(floor: Floor, ours: Callable[[], object], seconds: float, context: Context) -> Gap:
    bounds = context.ceilings.bounds(floor)
    bound_by = max(bounds, key=lambda name: bounds[name])
    least = bounds[bound_by]
    kernel = None if floor.kernel is None else ratio(ours, context.finished(floor.kernel), context.pairs)
    return Gap(
        seconds=least,
        bound_by=bound_by,
        bounds=bounds,
        times=seconds / least,
        kernel_seconds=None if kernel is None else kernel.seconds_b,
        kernel_times=None if kernel is None else kernel.median,
    )


def _grown(entry: Curve, context: Context) -> Grown:
    seconds, exponents = {}, {}
    for name, make in entry.lines.items():
        calls = []
        for size in entry.sizes:
            call = context.finished(make(size))
            call()
            calls.append(call)
        # Sizes take turns, so that a machine that slows down does not bend the curve.
        rounds = [[_once(call) for call in calls] for _ in range(min(context.pairs, MOST_ROUNDS))]
        seconds[name] = [statistics.median(column) for column in zip(*rounds, strict=True)]
        exponents[name] = exponent(entry.sizes, rounds)
    return Grown(entry, seconds, exponents)


_SHORTEST = 0.02
"""Seconds that one reading lasts at least: shorter calls are repeated."""


def _once(call: Callable[[], object]) -> float:
    times, start = 0, time.perf_counter()
    while True:
        call()
        times += 1
        spent = time.perf_counter() - start
        if spent >= _SHORTEST:
            return spent / times


def run_case(
    name: str,
    entries: Iterator[Entry],
    description: str,
    context: Context,
    progress: Progress = lambda text: None,
    said: Callable[[Result], None] = lambda result: None,
) -> CaseResult:
    """Measure a case entry by entry.

    Args:
        name: of the case.
        entries: what its function yields.
        description: its one line.
        context: how to measure.
        progress: called with what is being measured.
        said: called with every result as it comes.
    """
    start = time.perf_counter()
    results = []
    torch.manual_seed(0)
    for entry in entries:
        results.append(measure(entry, context, progress))
        said(results[-1])
    return CaseResult(name, description, tuple(results), time.perf_counter() - start)
