"""Train many runs: those of one shape together, a chunk at a time, into a store."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from iclens.errors import UserError
from iclens.sweeps.chunks import ChunkPlan, groups, plan
from iclens.sweeps.result import Result
from iclens.sweeps.store import Store
from iclens.training.config import RunConfig
from iclens.training.train import TrainedRun, train

GIB = 2**30

_SECONDS_PER_WORKER = 20.0
"""Work that one more process is worth."""

Report = Callable[[int, int], None]
"""(index of the chunk, steps done in it)."""


@dataclass(frozen=True)
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
        failed: error messages of chunks that could not be trained; their runs are not in the store.
    """

    finished: int
    diverged: int
    failed: list[str]


def prepare(
    configs: Sequence[RunConfig],
    store: Store,
    *,
    memory: int = 4 * GIB,
    workers: int = 1,
    chunk: int | None = None,
    device: str = "cpu",
) -> SweepPlan:
    """Group the runs that the store does not have, and measure how to cut the groups.

    Args:
        configs: the runs.
        store: where results are.
        memory: cap of the memory of all workers together, in bytes.
        workers: number of processes that will train at once; each gets its share of the cap.
        chunk: runs trained at once, instead of a measured number.
        device: where they will train.

    Raises:
        UserError: an impossible configuration.
    """
    for one in configs:
        one.check()
    missing = store.missing(configs)
    chunks: list[list[RunConfig]] = []
    seconds: list[float] = []
    for group in groups(missing):
        measured = plan(group, memory // workers, device=device)
        size = chunk or _shared(len(group), measured, workers)
        per_run = measured.measured.get(size, measured.seconds / measured.size)
        for start in range(0, len(group), size):
            part = group[start : start + size]
            chunks.append(part)
            seconds.append(per_run * len(part) * part[0].training.steps)
    return SweepPlan(chunks, [part[0].training.steps for part in chunks], seconds, len(configs) - len(missing))


def _shared(n_runs: int, measured: ChunkPlan, workers: int) -> int:
    """The measured size, smaller if some workers would else have nothing to do."""
    return max(1, min(measured.size, -(-n_runs // workers)))


def run(
    prepared: SweepPlan,
    store: Store,
    *,
    workers: int = 1,
    threads: int = 1,
    device: str = "cpu",
    report: Report | None = None,
) -> SweepResult:
    """Train what was prepared; every chunk's results are in the store as soon as it is done.

    Interrupted, it leaves checkpoints in the store's folder, from which the same sweep goes on.

    Args:
        prepared: what `prepare` gave.
        store: where results go.
        workers: processes; 1 trains in this process.
        threads: torch threads of each.
        device: where to train.
        report: called as training goes on.

    Raises:
        UserError: with one worker: what stopped a chunk.
    """
    counts = {"finished": 0, "diverged": 0}
    failed: list[str] = []
    # A process takes seconds to start.
    workers = min(workers, 1 + int(sum(prepared.seconds) / _SECONDS_PER_WORKER))
    if workers == 1 or len(prepared.chunks) <= 1:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for place, part in enumerate(prepared.chunks):
                for status in train_into(store, part, device=device, report=_of(report, place)):
                    counts[status] += 1
        finally:
            torch.set_num_threads(before)
        return SweepResult(counts["finished"], counts["diverged"], failed)
    with multiprocessing.Manager() as manager:
        messages = manager.Queue()
        done = threading.Event()
        listener = threading.Thread(target=_listen, args=(messages, report, done), daemon=True)
        listener.start()
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, _in_worker, (threads,)) as pool:
            waiting: set[Future[list[str]]] = {
                pool.submit(_chunk, str(store.path), [one.to_dict() for one in part], device, messages, place)
                for place, part in enumerate(prepared.chunks)
            }
            try:
                while waiting:
                    ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in ended:
                        try:
                            for status in future.result():
                                counts[status] += 1
                        except (UserError, BrokenProcessPool) as error:
                            failed.append(str(error))
            except KeyboardInterrupt:
                # The workers get the signal too, and write their checkpoints.
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            finally:
                done.set()
        listener.join()
    return SweepResult(counts["finished"], counts["diverged"], failed)


def train_into(
    store: Store, configs: Sequence[RunConfig], *, device: str = "cpu", report: Callable[[int], None] | None = None
) -> list[str]:
    """Train runs of one shape together and keep them; the statuses.

    A checkpoint of exactly these runs in the store's folder is taken up.

    Raises:
        UserError: see `iclens.training.train.train` and `Store.add`.
    """
    path = checkpoint_path(store, configs)
    advance = None if report is None else (lambda step, _total, _loss: report(step))
    trained = train(configs, device=device, checkpoint=path, advance=advance)
    for one in trained:
        keep(store, one, device)
    path.unlink(missing_ok=True)
    return [one.status for one in trained]


def keep(store: Store, one: TrainedRun, device: str) -> bool:
    """Add a trained run to a store; False if it was there."""
    last = one.config.training.steps if one.diverged_at is None else one.diverged_at
    result = Result(status=one.status, seconds=one.seconds, last_finite_step=last, device=device)
    return store.add(one.config, one.tensors, one.metrics, result)


def checkpoint_path(store: Store, configs: Sequence[RunConfig]) -> Path:
    """Where the unfinished state of a chunk lies."""
    digest = sha256(" ".join(one.key() for one in configs).encode()).hexdigest()[:16]
    return store.path / "unfinished" / f"{digest}.safetensors"


def _of(report: Report | None, place: int) -> Callable[[int], None] | None:
    return None if report is None else (lambda step: report(place, step))


def _in_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _chunk(path: str, configs: list[dict[str, Any]], device: str, messages: Any, place: int) -> list[str]:
    return train_into(
        Store(path),
        [RunConfig.from_dict(one) for one in configs],
        device=device,
        report=lambda step: messages.put((place, step)),
    )


def _listen(messages: Any, report: Report | None, done: threading.Event) -> None:
    while not done.is_set():
        try:
            place, step = messages.get(timeout=0.2)
        except queue.Empty:
            continue
        except (EOFError, OSError):
            return
        if report is not None:
            report(place, step)
