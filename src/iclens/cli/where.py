"""Where a command computes: in processes of this machine, or on a Ray cluster; started once in either case."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from iclens.cli.output import check_at_least_one
from iclens.errors import UserError

if TYPE_CHECKING:
    from iclens.work.cluster import Cluster

_OF_RAY = ("address", "task_cpus", "task_gpus", "retries")
"""Options that local processes do not have."""


@dataclass(frozen=True)
class Where:
    """Where to compute.

    Attributes:
        workers: processes; when left out one on a GPU, else one per core, if the start-up cost pays off.
        threads: torch threads of each process or Ray task.
        on: local processes, or ray.
        address: local starts Ray on this machine; auto finds the cluster of this machine; or its host:port.
        task_cpus: CPUs of a Ray task; as many as threads when left out.
        task_gpus: GPUs of a Ray task, a fraction to share one; when left out 1, or 0 where only processors compute.
        retries: how many times to retry work on Ray after its process or machine died.
    """

    workers: int | None = None
    threads: int = 1
    on: Literal["local", "ray"] = "local"
    address: str = "local"
    task_cpus: float | None = None
    task_gpus: float | None = None
    retries: int = 3

    def given(self) -> list[str]:
        """Names of the fields that differ from their defaults."""
        return [name for name, value in vars(self).items() if value != getattr(Where, name)]

    def check(self) -> None:
        """Refuse options that make no sense, before any work.

        Raises:
            UserError: the first of them.
        """
        check_at_least_one(threads=self.threads, workers=self.workers)
        if self.on == "ray" and self.workers is not None:
            raise UserError(
                "--workers is for processes of this machine: on Ray as many tasks run at once as there is room for,"
                " fewer when each is given more with --task-cpus."
            )
        for name in self.given():
            if self.on == "local" and name in _OF_RAY:
                raise UserError(f"--{name.replace('_', '-')} is for a Ray cluster: give --on ray as well.")

    def cluster(self, *, gpu: bool) -> Cluster | None:
        """Return the Ray cluster, or None for processes of this machine.

        Args:
            gpu: whether the work is for GPUs.

        Raises:
            UserError: a value out of its range.
        """
        from iclens.work.cluster import Cluster

        if self.on == "local":
            return None
        cpus = float(self.threads) if self.task_cpus is None else self.task_cpus
        gpus = float(gpu) if self.task_gpus is None else self.task_gpus
        return Cluster(self.address, cpus, gpus, self.retries)


def refuse_torchrun(command: str, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to be one of several processes that were started together: each would do all of the work.

    Args:
        command: what the user typed after `iclens`.
        environment: in which `torchrun` says how many they are.

    Raises:
        UserError: there are several.
    """
    size = environment.get("WORLD_SIZE", "")
    if "LOCAL_RANK" in environment and size.isdecimal() and int(size) > 1:
        raise UserError(
            f"`iclens {command}` starts its own processes: start it once, without torchrun. Only `iclens train` shares"
            " its work among the processes of torchrun."
        )
