"""`iclens sweep`: train many runs, those of one shape together."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from iclens.cli.output import check_at_least_one, note, say
from iclens.cli.subcommand import command
from iclens.cli.where import Where, refuse_torchrun
from iclens.errors import UserError

if TYPE_CHECKING:
    from iclens.training.config import RunConfig
    from iclens.work.cluster import Cluster


@command("sweep")
@dataclass(frozen=True)
class Sweep:
    """Train every combination of the values in a configuration's [sweep] table.

    Runs that differ in their seed, rates or strengths only are trained together as an ensemble, each as it would be
    alone; a short measurement chooses how many at once. Finished runs go to the store one by one, and those that
    are there are not trained again, so that the same command continues where it was interrupted. `iclens runs
    list` shows them.

    With `--on ray` the machines of a Ray cluster train, in tasks of about ten seconds, and this one keeps the store.

    Attributes:
        config: a file or the name of a preset, and then overrides path=value.
        store: folder of finished runs.
        memory: cap of the memory of all workers, in GiB; on Ray of each task.
        chunk: runs trained at once, instead of a measured number.
        device: cpu or cuda.
        dry_run: only print what would be trained and what it would cost.
        where: processes and machines to use.
    """

    overrides: ClassVar = "config"

    config: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    store: Path = Path("iclens-runs")
    memory: float = 4.0
    chunk: int | None = None
    device: str = "cpu"
    dry_run: bool = False
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where)

    def run(self) -> int:
        """Train what is missing; 0, or 1 when a run diverged or a chunk failed."""
        refuse_torchrun("sweep")
        from iclens.sweeps.grid import expand
        from iclens.training.config_file import read_config
        from iclens.training.ensemble import usable_device
        from iclens.work.cluster import connected

        if not self.config:
            raise UserError("name a configuration file with a [sweep] table.")
        self.where.check()
        check_at_least_one(chunk=self.chunk)
        if not 0 < self.memory < float("inf"):
            raise UserError(f"--memory {self.memory}: it must be a positive number of GiB.")
        cluster = self.where.cluster(gpu=self.device != "cpu")
        if cluster is None:
            usable_device(self.device)
        data = read_config(self.config[0], self.config[1:])
        if "sweep" not in data:
            raise UserError(f"{self.config[0]} has no [sweep] table: train one run with `iclens train`.")
        configs = expand(data)
        with nullcontext() if cluster is None else connected(cluster):
            return self._train(configs, cluster)

    def _train(self, configs: list[RunConfig], cluster: Cluster | None) -> int:
        from collections import Counter

        from iclens.cli.resumable import resumable
        from iclens.sweeps.store import Store
        from iclens.sweeps.sweep import GIB, prepare, run
        from iclens.work.cluster import slots
        from iclens.work.progress import bar, duration
        from iclens.work.workers import torch_threads, usable_cores

        # A plan leaves no folder behind.
        store = None if self.dry_run and not self.store.exists() else Store(self.store)
        if store is not None:
            for text in store.notes:
                note(text)
            if not self.dry_run:
                store.check_writable()
        here = usable_cores() if self.device == "cpu" else 1
        workers = self.where.workers or (here if cluster is None else max(1, slots(cluster)))
        note(f"{len(configs)} runs; measuring how many to train at once")
        with torch_threads(self.where.threads):
            prepared = prepare(
                configs,
                store,
                memory=int(self.memory * GIB) * (1 if cluster is None else workers),
                workers=workers,
                chunk=self.chunk,
                device=self.device,
                cluster=cluster,
            )
        if not prepared.chunks:
            say(f"all {len(configs)} runs are in {self.store} already")
            return 0
        sizes = sorted({len(part) for part in prepared.chunks}, reverse=True)
        note(
            f"{prepared.n_present} in {self.store} already; {prepared.n_runs} to train in {len(prepared.chunks)} chunks"
            f" of {' or '.join(map(str, sizes))} runs, about"
            f" {duration(sum(prepared.seconds) / min(workers, max(1, len(prepared.chunks))))}"
        )
        if store is None or self.dry_run:
            return 0
        with resumable(), bar(prepared.steps) as report:
            result = run(
                prepared,
                store,
                workers=workers,
                threads=self.where.threads,
                device=self.device,
                cluster=cluster,
                report=report,
            )
        for text, count in Counter(result.failed).items():
            note(f"not trained: {text}" + (f" ({count} chunks)" if count > 1 else ""))
        say(f"{result.finished} runs finished, {result.diverged} diverged, in {self.store}")
        return 1 if result.failed or result.diverged else 0
