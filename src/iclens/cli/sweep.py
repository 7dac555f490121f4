"""`iclens sweep`: train many runs, those of one shape together."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from iclens.cli.command import command
from iclens.cli.output import note, say
from iclens.errors import UserError

if TYPE_CHECKING:
    from iclens.cluster import Cluster
    from iclens.training.config import RunConfig


@command("sweep")
@dataclass(frozen=True)
class Sweep:
    """Train every combination of the values in a configuration's [sweep] table.

    Runs that differ in their seed, rates or strengths only are trained together as an ensemble, each as it would be
    alone; how many at once is measured first. Finished runs go to the store one by one, and those that are there are
    not trained again, so that the same command goes on where it was interrupted. `iclens runs list` shows them.

    With `--on ray` the machines of a Ray cluster train, in tasks of about ten seconds, and this one keeps the store.

    Attributes:
        config: a file or the name of a preset, and then overrides path=value.
        store: folder of finished runs.
        workers: processes that train at once; the number of cores when left out, or of tasks that the cluster can run.
        threads: torch threads of each.
        memory: cap of the memory of all workers, in GiB; on Ray of each task.
        chunk: runs trained at once, instead of a measured number.
        device: cpu or cuda.
        on: local processes, or ray.
        address: local starts Ray on this machine; auto is the cluster that this machine belongs to; or its host:port.
        task_cpus: CPUs of a Ray task; as many as threads when left out.
        task_gpus: GPUs of a Ray task, a fraction to share one; 1 when left out and the device is cuda.
        retries: how often work is begun anew on Ray whose process or machine died.
        dry_run: only say what would be trained and what it would cost.
    """

    config: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    store: Path = Path("iclens-runs")
    workers: int | None = None
    threads: int = 1
    memory: float = 4.0
    chunk: int | None = None
    device: str = "cpu"
    on: Literal["local", "ray"] = "local"
    address: str = "local"
    task_cpus: float | None = None
    task_gpus: float | None = None
    retries: int = 3
    dry_run: bool = False

    def run(self) -> int:
        """Train what is missing; 0, or 1 when a run diverged or a chunk failed."""
        from iclens.cluster import connected
        from iclens.sweeps.grid import expand
        from iclens.training.config_file import read_config
        from iclens.training.ensemble import usable_device

        if not self.config:
            raise UserError("name a configuration file with a [sweep] table.")
        for name, value in (("threads", self.threads), ("workers", self.workers), ("chunk", self.chunk)):
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: it must be at least 1.")
        if not 0 < self.memory < float("inf"):
            raise UserError(f"--memory {self.memory}: it must be a positive number of GiB.")
        cluster = self._cluster()
        if cluster is None:
            usable_device(self.device)
        data = read_config(self.config[0], self.config[1:])
        if "sweep" not in data:
            raise UserError(f"{self.config[0]} has no [sweep] table: train one run with `iclens train`.")
        configs = expand(data)
        with nullcontext() if cluster is None else connected(cluster):
            return self._train(configs, cluster)

    def _cluster(self) -> Cluster | None:
        from iclens.cluster import Cluster

        if self.on == "local":
            options = (("address", self.address != "local"), ("task-cpus", self.task_cpus is not None))
            for name, given in (*options, ("task-gpus", self.task_gpus is not None)):
                if given:
                    raise UserError(f"--{name} is for a Ray cluster: give --on ray as well.")
            return None
        cpus = float(self.threads) if self.task_cpus is None else self.task_cpus
        gpus = float(self.device != "cpu") if self.task_gpus is None else self.task_gpus
        return Cluster(self.address, cpus, gpus, self.retries)

    def _train(self, configs: list[RunConfig], cluster: Cluster | None) -> int:
        from collections import Counter

        from iclens.cli.training_progress import bar, duration, resumable
        from iclens.cluster import slots
        from iclens.sweeps.store import Store
        from iclens.sweeps.sweep import GIB, prepare, run
        from iclens.workers import torch_threads, usable_cores

        # A plan leaves no folder behind.
        store = None if self.dry_run and not self.store.exists() else Store(self.store)
        if store is not None:
            for text in store.notes:
                note(text)
            if store.read_only and not self.dry_run:
                raise UserError(f"the store {self.store} is read-only: no permission to write there.")
        here = usable_cores() if self.device == "cpu" else 1
        workers = self.workers or (here if cluster is None else max(1, slots(cluster)))
        note(f"{len(configs)} runs; measuring how many to train at once")
        with torch_threads(self.threads):
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
                threads=self.threads,
                device=self.device,
                cluster=cluster,
                report=report,
            )
        for text, count in Counter(result.failed).items():
            note(f"not trained: {text}" + (f" ({count} chunks)" if count > 1 else ""))
        say(f"{result.finished} runs finished, {result.diverged} diverged, in {self.store}")
        return 1 if result.failed or result.diverged else 0
