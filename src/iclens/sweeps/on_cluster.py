"""Chunks of a sweep trained on a Ray cluster: whole runs travel to the one store that the driver writes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

from iclens.sweeps import run_folder
from iclens.sweeps.chunks import ChunkPlan, plan
from iclens.sweeps.result import result_of
from iclens.sweeps.store import Store
from iclens.training.config import RunConfig
from iclens.training.interruption import held_interrupts
from iclens.training.loop import train
from iclens.work.cluster import Cluster, each_on_cluster, tasks_of
from iclens.work.workers import Ended, Tell

_MEASURED = 1024
"""Runs of a group that travel to be measured; a chunk holds no more."""

Packed = tuple[str, str, dict[str, bytes]]
"""Key, status and files of a trained run."""


def train_on_cluster(
    chunks: Sequence[Sequence[RunConfig]],
    seconds: Sequence[float],
    store: Store,
    *,
    cluster: Cluster,
    threads: int = 1,
    device: str = "cpu",
    report: Callable[[int, int], None] | None = None,
) -> Generator[Ended[list[str]], None, None]:
    """Train chunks on a cluster; the runs of each are in the store before it is said to have ended.

    Ctrl-C waits until the runs of a chunk that has arrived are all in the store, and ends the chunks that are being
    trained without keeping their state.

    Args:
        chunks: the runs that train together.
        seconds: estimated time of every chunk.
        store: where results go; only this process touches it.
        cluster: where to train.
        threads: torch threads of each chunk.
        device: where to train on a machine.
        report: called as `report(index of the chunk, steps done)`.

    Yields:
        the statuses of the runs of a chunk, or why it failed.

    Raises:
        UserError: see `each_on_cluster`.
    """
    calls = _Calls(chunks, device)
    together = tasks_of(seconds)
    ends = each_on_cluster(_train, calls, cluster=cluster, threads=threads, together=together, report=report)
    with closing(ends):
        for ended in ends:
            yield _stored(ended, store)


def measure_on_cluster(
    groups: Sequence[Sequence[RunConfig]], memory: int, *, cluster: Cluster, threads: int = 1, device: str = "cpu"
) -> list[ChunkPlan]:
    """`iclens.sweeps.chunks.plan` of every group, measured where it will train.

    Raises:
        UserError: see `each_on_cluster`, or an impossible configuration.
    """
    calls = [([one.to_dict() for one in _sample(group)], memory, device) for group in groups]
    measured: list[ChunkPlan | None] = [None] * len(calls)
    with closing(each_on_cluster(_measure, calls, cluster=cluster, threads=threads)) as ends:
        for ended in ends:
            measured[ended.place] = ended.result()
    return [one for one in measured if one is not None]


class _Calls(Sequence[tuple[Any, ...]]):
    """Arguments for every chunk, made when asked for: those of a million runs at once would fill the memory."""

    def __init__(self, chunks: Sequence[Sequence[RunConfig]], device: str) -> None:
        self.chunks, self.device = chunks, device

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, place: Any) -> Any:
        return [one.to_dict() for one in self.chunks[place]], self.device

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return (self[place] for place in range(len(self)))


def _stored(ended: Ended[list[Packed]], store: Store) -> Ended[list[str]]:
    if ended.error is not None:
        return Ended(ended.place, None, ended.error)
    packed = ended.result()
    try:
        # A chunk of which some runs are there would be trained again in another company.
        with held_interrupts():
            store.add_packed({key: files for key, _, files in packed})
    except Exception as error:
        return Ended(ended.place, None, error)
    return Ended(ended.place, [status for _, status, _ in packed])


def _sample(group: Sequence[RunConfig]) -> list[RunConfig]:
    """Some runs of a group, the ones that take the most memory among them."""
    longest = max(group, key=lambda one: one.training.n_context)
    most_heads = max(group, key=lambda one: one.to_dict()["model"].get("n_heads", 0))
    return list({one.key(): one for one in [*group[:_MEASURED], longest, most_heads]}.values())


def _measure(configs: list[dict[str, Any]], memory: int, device: str, _tell: Tell) -> ChunkPlan:
    return plan([RunConfig.from_dict(one) for one in configs], memory, device=device)


def _train(configs: list[dict[str, Any]], device: str, tell: Tell) -> list[Packed]:
    trained = train(
        [RunConfig.from_dict(one) for one in configs], device=device, advance=lambda step, _total, _loss: tell(step)
    )
    return [
        (one.config.key(), one.status, run_folder.pack(one.config, one.tensors, one.metrics, result_of(one, device)))
        for one in trained
    ]
