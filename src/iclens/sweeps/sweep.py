"""Train many runs: those of one shape together, a chunk at a time, into a store."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from iclens.errors import UserError, said
from iclens.sweeps.chunks import ChunkPlan, Seconds, groups, plan, seconds_per_step
from iclens.sweeps.on_cluster import measure_on_cluster, train_on_cluster
from iclens.sweeps.result import result_of
from iclens.sweeps.store import UNFINISHED, Store
from iclens.training.checkpoint import checkpoint_keys
from iclens.training.config import RunConfig
from iclens.training.distributed import Processes
from iclens.training.loop import TrainedRun, train
from iclens.work.cluster import Cluster
from iclens.work.workers import Ended, Tell, each, worth_starting

GIB = 2**30

Report = Callable[[int, int], None]
"""(index of the chunk, steps done in it)."""


@dataclass(frozen=True, repr=False)
class SweepPlan:
    """What a sweep will do, and what that costs.

    Attributes:
        chunks: the runs of every chunk.
        steps: steps of every chunk.
        seconds: estimated time of every chunk on one worker.
        n_present: runs that the store has already.
    """

    chunks: list[list[RunConfig]]
    steps: list[int]
    seconds: list[float]
    n_present: int

    def __repr__(self) -> str:
        cost = f"about {sum(self.seconds):.0f} s on one worker"
        return f"<SweepPlan: {self.n_runs} runs in {len(self.chunks)} chunks, {cost}; {self.n_present} present>"

    @property
    def n_runs(self) -> int:
        """Runs to be trained."""
        return sum(map(len, self.chunks))


@dataclass(frozen=True)
class SweepResult:
    """What became of the runs of a sweep.

    Attributes:
        finished: number of runs that finished.
        diverged: number that diverged.
        failed: error messages of chunks that could not be trained; of their runs those that are not in the store are
            missing.
    """

    finished: int
    diverged: int
    failed: list[str]


def prepare(
    configs: Sequence[RunConfig],
    store: Store | None,
    *,
    memory: int = 4 * GIB,
    workers: int = 1,
    chunk: int | None = None,
    device: str = "cpu",
    cluster: Cluster | None = None,
    measure: Seconds = seconds_per_step,
) -> SweepPlan:
    """Group the runs that the store does not have, and measure how to cut the groups.

    Runs of which the store has a checkpoint are a chunk as they were then, so that they go on from it.

    Args:
        configs: the runs.
        store: where results are; None for nowhere yet.
        memory: cap of the memory of all workers together, in bytes.
        workers: number of processes that will train at once; each gets its share of the cap.
        chunk: runs trained at once, instead of a measured number.
        device: where they will train.
        cluster: the Ray cluster whose machines will; a device that this one lacks is then measured there.
        measure: how the time of a step is measured on this machine.

    Raises:
        UserError: an impossible configuration, or no such cluster.
    """
    missing = list({one.key(): one for one in (configs if store is None else store.missing(configs))}.values())
    for one in missing:
        one.check()
    chunks: list[list[RunConfig]] = []
    seconds: list[float] = []
    grouped = groups(missing)
    plans = _measured(grouped, memory // workers, device, cluster, measure)
    for group, measured in zip(grouped, plans, strict=True):
        most = chunk or max(1, memory // workers // max(1, measured.bytes_per_run))
        parts, rest = _interrupted(group, store, most, configs)
        size = chunk or _shared(len(rest), measured, workers)
        per_run = measured.measured.get(size, measured.seconds / measured.size)
        for part in [*parts, *(rest[start : start + size] for start in range(0, len(rest), size))]:
            chunks.append(part)
            seconds.append(per_run * len(part) * part[0].training.steps)
    n_present = len({one.key() for one in configs}) - len(missing)
    return SweepPlan(chunks, [part[0].training.steps for part in chunks], seconds, n_present)


def _measured(
    grouped: list[list[RunConfig]], memory: int, device: str, cluster: Cluster | None, seconds: Seconds
) -> Iterable[ChunkPlan]:
    if cluster is not None and device != "cpu":
        return measure_on_cluster(grouped, memory, cluster=cluster, device=device)
    return (plan(group, memory, device=device, seconds=seconds) for group in grouped)


def _interrupted(
    group: list[RunConfig], store: Store | None, most: int, configs: Sequence[RunConfig]
) -> tuple[list[list[RunConfig]], list[RunConfig]]:
    """Return the runs of every checkpoint of at most the given number, and the other ones.

    A checkpoint of which some runs are in the store already, because the process was killed while it kept them, is
    taken up whole: other neighbours would change the last bits of those that are missing.
    """
    rest = {one.key(): one for one in group}
    known = {one.key(): one for one in configs}
    parts: list[list[RunConfig]] = []
    if store is None:
        return [], list(rest.values())
    for path in store.checkpoints():
        keys = checkpoint_keys(path)
        whole = all(key in rest or (key in known and store.has(key)) for key in keys)
        if whole and len(keys) <= most and any(key in rest for key in keys):
            for key in keys:
                rest.pop(key, None)
            parts.append([known[key] for key in keys])
    return parts, list(rest.values())


def _shared(n_runs: int, measured: ChunkPlan, workers: int) -> int:
    """Return the measured size, smaller if some workers would else have nothing to do."""
    return max(1, min(measured.size, -(-n_runs // workers)))


def run(
    prepared: SweepPlan,
    store: Store,
    *,
    workers: int = 1,
    threads: int = 1,
    device: str = "cpu",
    cluster: Cluster | None = None,
    report: Report | None = None,
) -> SweepResult:
    """Train what was prepared; every chunk's results are in the store as soon as it is done.

    Interrupted, it leaves checkpoints in the store's folder, from which the same sweep goes on; a cluster's machines
    leave none, so that there unfinished chunks begin again. A chunk that fails does not keep the others from being
    trained.

    Args:
        prepared: what `prepare` gave.
        store: where results go.
        workers: processes; 1 trains in this process.
        threads: torch threads of each.
        device: where to train.
        cluster: train on a Ray cluster instead, `workers` notwithstanding.
        report: called as training goes on.

    Raises:
        UserError: the store cannot be written, or no such cluster.
    """
    store.check_writable()
    counts = {"finished": 0, "diverged": 0}
    failed: list[str] = []
    ends: Generator[Ended[list[str]], None, None]
    if cluster is None:
        calls = [(str(store.path), [one.to_dict() for one in part], device) for part in prepared.chunks]
        workers = worth_starting(workers, sum(prepared.seconds, 0.0))
        ends = each(_chunk, calls, workers=workers, threads=threads, report=report)
    else:
        ends = train_on_cluster(
            prepared.chunks,
            prepared.seconds,
            store,
            cluster=cluster,
            threads=threads,
            device=device,
            report=report,
        )
    # Closed at once when this is left by an exception, so that the workers write their checkpoints.
    with closing(ends):
        for ended in ends:
            try:
                for status in ended.result():
                    counts[status] += 1
            except Exception as error:
                if len(prepared.chunks) == 1 and not isinstance(error, UserError):
                    raise
                failed.append(said(error))
    # Of chunks whose runs were trained in other chunks.
    for path in store.unneeded_checkpoints():
        path.unlink(missing_ok=True)
    return SweepResult(counts["finished"], counts["diverged"], failed)


def train_into(
    store: Store,
    configs: Sequence[RunConfig],
    *,
    device: str = "cpu",
    report: Callable[[int], None] | None = None,
    processes: Processes | None = None,
) -> list[str]:
    """Train runs of one shape together and keep them; the statuses.

    A checkpoint of exactly these runs in the store's folder is taken up.

    Args:
        store: where results go.
        configs: the runs.
        device: where to train.
        report: called with the number of steps done.
        processes: those that train together, of which this is the first.

    Raises:
        UserError: see `iclens.training.loop.train` and `Store.add`.
    """
    path = checkpoint_path(store, configs)
    advance = None if report is None else (lambda step, _total, _loss: report(step))
    trained = train(configs, device=device, checkpoint=path, advance=advance, processes=processes)
    for one in trained:
        keep(store, one, device, 1 if processes is None else processes.size)
    path.unlink(missing_ok=True)
    return [one.status for one in trained]


def keep(store: Store, one: TrainedRun, device: str, processes: int = 1) -> bool:
    """Add a run that several processes trained to a store; False if it was there."""
    return store.add(one.config, one.tensors, one.metrics, replace(result_of(one, device), processes=processes))


def checkpoint_path(store: Store, configs: Sequence[RunConfig]) -> Path:
    """Where the unfinished state of a chunk lies."""
    digest = sha256(" ".join(one.key() for one in configs).encode()).hexdigest()[:16]
    return store.path / UNFINISHED / f"{digest}.safetensors"


def _chunk(path: str, configs: list[dict[str, Any]], device: str, tell: Tell) -> list[str]:
    return train_into(Store(path), [RunConfig.from_dict(one) for one in configs], device=device, report=tell)
