"""The Ray cluster that calls run on, and the way to it."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from iclens.errors import UserError
from iclens.work.workers import usable_cores


@dataclass(frozen=True)
class Cluster:
    """Where calls run, and what each is given there.

    Attributes:
        address: `local` starts Ray on this machine alone and ends it again; `auto` is the cluster that this machine
            belongs to; `host:port` is the one with that head, of which this machine must be a node as well.
        cpus: CPUs of a task, ≥ 0, fractions allowed.
        gpus: GPUs of a task; a fraction below 1 shares one GPU, above 1 they are whole.
        retries: how many times to retry a call after its process or its machine died.

    Raises:
        UserError: a value out of its range.
    """

    address: str = "local"
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3

    def __post_init__(self) -> None:
        for name, value in (("CPUs", self.cpus), ("GPUs", self.gpus)):
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{value} {name} a task: it must be a number from 0.")
        if self.cpus == self.gpus == 0:
            raise UserError("a task needs some CPU or some GPU, or all would run at once.")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise UserError(f"{self.gpus} GPUs a task: above 1 they are whole.")
        if self.retries < 0:
            raise UserError(f"{self.retries} retries: it must be at least 0.")
        if self.address not in ("local", "auto"):
            host, _, port = self.address.rpartition(":")
            if not host or "/" in host or not port.isdecimal():
                raise UserError(
                    f"{self.address!r} is no address of a Ray cluster: local, auto or host:port, on one of its nodes."
                )


@contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """Connected to the cluster inside; a connection that is there already is used and left as it is.

    Raises:
        UserError: see `each_on_cluster`.
    """
    ray = ray_module()
    if ray.is_initialized():
        yield
        return
    _connect(ray, cluster)
    try:
        yield
    finally:
        ray.shutdown()


def slots(cluster: Cluster) -> int:
    """Return how many tasks can run at once on the cluster that this process is connected to, as it is now."""
    return sum(_room(node["Resources"], cluster) for node in ray_module().nodes() if node["Alive"])


def ray_module() -> Any:
    """Ray, imported when it is needed.

    Raises:
        UserError: it is not installed.
    """
    # Neither the user's nor a cluster's habits are for others to know.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError("Ray is not installed: `pip install 'iclens[ray]'` brings it.") from None
    return ray


def _connect(ray: Any, cluster: Cluster) -> None:
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if cluster.address == "local":
        # Else a busy machine would starve these processes, and no others of this package.
        os.environ.setdefault("RAY_worker_niceness", "0")
        try:
            with _on_loopback():
                ray.init(address="local", num_cpus=usable_cores(), include_dashboard=False, **quiet)
        # Ray raises bare ones, as on a machine so busy that its processes are not up in time.
        except Exception as error:
            ray.shutdown()
            raise UserError(f"Ray could not be started on this machine: {_first_line(error)}") from error
        if not all(node["NodeManagerAddress"].startswith("127.") for node in ray.nodes()):
            ray.shutdown()
            raise UserError(
                f"Ray {ray.__version__} does not keep to this machine's loopback address; start it with `ray start"
                " --head` as you want it, and use the address auto."
            )
        return
    if cluster.address == "auto":
        missing = "no Ray cluster runs on this machine: start one with `ray start --head`, or use the address local."
    else:
        missing = f"no Ray cluster answers at {cluster.address}."
        host, _, port = cluster.address.rpartition(":")
        try:
            # Ray itself would try for minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except (OSError, OverflowError, ValueError):  # the last for a name or a number that can be none
            raise UserError(missing) from None
    try:
        ray.init(address=cluster.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"{missing} Ray says: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Inside, Ray listens on the loopback address alone.

    It offers that only where it takes no machine for part of a cluster, so inside it is made to.
    """
    from ray._private import ray_constants

    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", None)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _room(resources: dict[str, float], cluster: Cluster) -> int:
    needs = (("CPU", cluster.cpus), ("GPU", cluster.gpus))
    return min(int(resources.get(name, 0.0) / need + 1e-6) for name, need in needs if need > 0)
