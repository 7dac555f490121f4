"""The store of finished runs: how fast runs are added, and how soon ten thousand are listed."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from iclens.benchmarks.case import CASES, Cell, Context, Entry, Listing, Verdict, takes
from iclens.benchmarks.cases.training import tiny_configs
from iclens.sweeps import run_folder
from iclens.sweeps.result import result_of
from iclens.sweeps.store import Store
from iclens.training.config import RunConfig
from iclens.training.loop import train

LISTED_WITHIN = 0.5
"""Seconds, for a person who waits."""

LIST = """
import sys, time
from iclens.cli.main import main
store, empty = sys.argv[1:]
main(["runs", "list", "--store", empty])
start = time.perf_counter()
main(["runs", "list", "--store", store])
print("seconds", time.perf_counter() - start, file=sys.stderr)
"""
"""The first list loads what the command needs."""


@CASES.register("store")
@takes(1)
def store(context: Context) -> Iterator[Entry]:
    """The store of runs: how many are added a second, and how soon 10,000 of them are listed."""
    number = context.pick(40, 10_000)
    with tempfile.TemporaryDirectory(prefix="iclens-store-") as folder:
        empty, full = Store(Path(folder) / "empty"), Store(Path(folder) / "full")
        together = add_runs(full, tiny_configs(number))
        alone = add_runs(empty, tiny_configs(context.pick(4, 100)), 1)
        listed = _seconds_to_list(full, Store(Path(folder) / "none"), context.pick(1, 5))
    claim = Verdict(f"{number:,} runs listed within {LISTED_WITHIN:g} s", listed <= LISTED_WITHIN, f"{listed:.2f} s")
    rows: list[Mapping[str, Cell]] = [
        {"what": "runs added a second, 16 at once", "value": 1 / together},
        {"what": "runs added a second, one by one", "value": 1 / alone},
        {"what": f"seconds in which iclens runs list, once loaded, lists {number:,} runs", "value": listed},
    ]
    yield Listing("the store of runs", rows, () if context.quick else (claim,))


def add_runs(store: Store, configs: Sequence[RunConfig], together: int = 16) -> float:
    """Measure seconds for each run added, several at once, as chunks of a sweep arrive; one trains for all."""
    (one,) = train([replace(configs[0], training=replace(configs[0].training, steps=1))])
    result = result_of(one, "cpu")
    runs = iter([(config.key(), run_folder.pack(config, one.tensors, one.metrics, result)) for config in configs])
    start = time.perf_counter()
    while chunk := dict(islice(runs, together)):
        store.add_packed(chunk)
    return (time.perf_counter() - start) / len(configs)


def _seconds_to_list(store: Store, empty: Store, processes: int) -> float:
    """Return the median over fresh processes."""
    command = [sys.executable, "-c", LIST, str(store.path), str(empty.path)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    seconds = []
    for _ in range(processes):
        said = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stderr
        seconds.append(float(said.split()[-1]))
    return statistics.median(seconds)
