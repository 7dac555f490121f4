"""What a sweep on a Ray cluster costs beside its training, and from that what a million runs would take."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from iclens.benchmarks.case import CASES, Absent, Cell, Context, Entry, Listing, Verdict, takes
from iclens.benchmarks.cases.store import add_runs
from iclens.benchmarks.cases.training import tiny_configs
from iclens.sweeps.chunks import groups
from iclens.sweeps.grid import expand
from iclens.sweeps.store import Store
from iclens.work.cluster import TASK_SECONDS, Cluster, connected, each_on_cluster, slots
from iclens.work.workers import Ended, Tell, each

Timed = Callable[..., tuple[float, float]]
"""Run a task that returns when it began and when it ended."""

RUNS, CORES, SECONDS_A_RUN = 1_000_000, 1000, (1.0, 10.0, 100.0)
"""Cores of the estimate, more than the machine has."""

MOST_OVERHEAD = 0.05


@CASES.register("scale-out")
@takes(5)
def scale_out(context: Context) -> Iterator[Entry]:
    """A sweep on Ray: dispatch, tasks of 10 s, two nodes against one, the store; a million runs on paper."""
    if importlib.util.find_spec("ray") is None:
        yield Absent("ray", "ray is not installed: pip install 'iclens[ray]'")
        return
    long = context.pick(0.2, TASK_SECONDS)
    with connected(Cluster()):
        tiny, dispatching = _dispatch(context.pick(20, 500))
        overhead = _overhead(long, context.pick(1, 3))
    within = (
        Verdict(
            f"at most {MOST_OVERHEAD:.0%} of tasks of {TASK_SECONDS:.0f} s is not theirs",
            overhead <= MOST_OVERHEAD,
            f"{overhead:.2%}",
        ),
    )
    rows: list[Mapping[str, Cell]] = [
        {"what": "a task that does nothing, all its cost on this machine, ms", "value": 1000 * tiny},
        {"what": f"the same, share of a task of {TASK_SECONDS:.0f} s, %", "value": 100 * tiny / TASK_SECONDS},
        {"what": "processor time of the driver for it, ms", "value": 1000 * dispatching},
        {"what": f"share of the slots' time that tasks of {long:g} s left idle, %", "value": 100 * overhead},
    ]
    yield Listing("Ray on this machine", rows, () if context.quick else within)
    yield Listing("one and two nodes of one CPU on this machine", _nodes(long, context.pick(2, 4)))
    writing, planning = _writing(context.pick(32, 1024)), _planning(context.pick(64, 1024))
    rows = [
        {"what": "runs that the driver adds to the store a second", "value": 1 / writing},
        {"what": "runs that the driver plans a second", "value": 1 / planning},
    ]
    yield Listing("the driver", rows)
    yield Listing(
        f"ON PAPER, from the numbers above: {RUNS:,} runs on {CORES:,} cores, hours",
        [_estimate(seconds, dispatching, overhead, writing, planning) for seconds in SECONDS_A_RUN],
    )


def _dispatch(number: int) -> tuple[float, float]:
    """Seconds for each of many tasks that do nothing, on the clock and of the driver's processor."""
    ends = each_on_cluster(_sleep, [(0.0,)] * number, cluster=Cluster())
    # Processes start before the first.
    next(ends)
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in ends:
        pass
    clock, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    return clock / (number - 1), cpu / (number - 1)


def _overhead(seconds: float, rounds: int) -> float:
    """Share of the slots' time in which no task ran; tasks sleep, so that a busy machine counts little."""
    number = slots(Cluster())
    took, inside = _timed(_sleep, seconds, number * rounds, number, partial(each_on_cluster, cluster=Cluster()))
    return 1 - inside / (number * took)


def _nodes(seconds: float, tasks: int) -> list[Mapping[str, Cell]]:
    """Return the same tasks on one node and on two: asleep, and at work with what cores this machine has free.

    How much that is, the same work says in one process and in two, without Ray.
    """

    def on_nodes(function: Timed, number: int) -> float:
        with _local_nodes(number) as cluster:
            return _timed(function, seconds, tasks, slots(cluster), partial(each_on_cluster, cluster=cluster))[0]

    def in_processes(function: Timed, number: int) -> float:
        return _timed(function, seconds, tasks, number, partial(each, workers=number))[0]

    rows: list[Mapping[str, Cell]] = []
    for what, where, function in (
        ("asleep", on_nodes, _sleep),
        ("at work", on_nodes, _multiply),
        ("at work in processes, without Ray", in_processes, _multiply),
    ):
        one, two = where(function, 1), where(function, 2)
        rows.append({"tasks": f"{tasks} of {seconds:g} s, {what}", "one, s": one, "two, s": two, "ratio": one / two})
    return rows


@contextmanager
def _local_nodes(number: int) -> Iterator[Cluster]:
    """Start a cluster of nodes of one CPU each on this machine."""
    import ray
    from ray.cluster_utils import Cluster as Local

    local = Local()
    try:
        for _ in range(number):
            local.add_node(num_cpus=1, include_dashboard=False)
        cluster = Cluster(local.address)
        with connected(cluster):
            yield cluster
    finally:
        ray.shutdown()
        local.shutdown()


def _timed(
    function: Timed, amount: float, tasks: int, warm: int, executor: Callable[..., Iterable[Ended[tuple[float, float]]]]
) -> tuple[float, float]:
    """Seconds from the first task's beginning to the last one's end, and the sum of what each took.

    Every slot has a task before, whose time does not count, so that its process runs.
    """
    calls = [(0.1,)] * warm + [(amount,)] * tasks
    spans = [ended.result() for ended in executor(function, calls) if ended.place >= warm]
    took = max(end for _, end in spans) - min(start for start, _ in spans)
    return took, sum(end - start for start, end in spans)


def _sleep(seconds: float, _tell: Tell) -> tuple[float, float]:
    """When it began and ended, by a clock that all processes of a machine share."""
    start = time.monotonic()
    time.sleep(seconds)
    return start, time.monotonic()


def _multiply(seconds: float, _tell: Tell) -> tuple[float, float]:
    """Spend the given seconds of processor time."""
    start, matrix = time.monotonic(), torch.eye(64)
    until = time.process_time() + seconds
    while time.process_time() < until:
        for _ in range(100):
            matrix = matrix @ matrix
    return start, time.monotonic()


def _writing(number: int) -> float:
    """Seconds for each run that is added to a store, in the chunks in which runs arrive."""
    with tempfile.TemporaryDirectory(prefix="iclens-scale-out-") as folder:
        return add_runs(Store(Path(folder)), tiny_configs(number))


def _planning(number: int) -> float:
    """Processor seconds for each run that is read from a grid, checked, hashed and grouped."""
    grid: dict[str, Any] = {**tiny_configs(1)[0].to_dict(), "sweep": {"seed": {"range": number}}}
    start = time.process_time()
    configs = expand(grid)
    for config in configs:
        config.check()
        config.key()
    groups(configs)
    return (time.process_time() - start) / number


def _estimate(seconds: float, dispatching: float, overhead: float, writing: float, planning: float) -> dict[str, Cell]:
    """Estimate the hours for runs of the given seconds; but for planning, the driver works while others train."""
    tasks = RUNS * seconds / max(TASK_SECONDS, seconds)
    training = RUNS * seconds / CORES / (1 - max(0.0, overhead))
    driver, plans = tasks * dispatching + RUNS * writing, RUNS * planning
    hours = {"planning": plans, "training": training, "dispatching and storing": driver}
    hours["in all"] = plans + max(training, driver)
    return {"seconds a run": seconds, **{name: value / 3600 for name, value in hours.items()}}
