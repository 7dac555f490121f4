"""Ray nodes of one CPU each on this machine, and the processes of their workers."""

from __future__ import annotations

import os
import secrets
import signal
from contextlib import contextmanager, suppress

from tests.house.started import MARK, marked

from iclens.work.cluster import Cluster


class Nodes:
    """A head node and others that come and go."""

    def __init__(self, mark):
        from ray.cluster_utils import Cluster as Local

        self.mark = mark
        self.local = Local()
        self._add()
        self.cluster = Cluster(address=self.local.address)

    @contextmanager
    def second(self):
        node = self._add()
        try:
            yield node
        finally:
            if node in self.local.worker_nodes:
                self.local.remove_node(node)

    def _add(self, attempts=4):
        """A node; on a busy machine its processes may not be up in the half minute that Ray gives them."""
        for _ in range(attempts - 1):
            # Ray raises bare ones, and ends the process where it waits for the head.
            with suppress(Exception, SystemExit):
                return self.local.add_node(num_cpus=1, include_dashboard=False)
        return self.local.add_node(num_cpus=1, include_dashboard=False)

    def kill(self, node):
        self.local.remove_node(node, allow_graceful=False)

    def busy(self):
        """Process ids of the workers that run a task now."""
        return [process for process, name in marked(self.mark) if name.startswith("ray::task")]

    def kill_a_worker(self):
        # It may have ended since.
        for process in self.busy()[:1]:
            os.kill(process, signal.SIGKILL)
            return True
        return False


@contextmanager
def ray_nodes(monkeypatch):
    """A head node with one CPU, connected to; its workers find the modules that lie beside this one."""
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(os.path.dirname(__file__)))
    monkeypatch.setenv(MARK, secrets.token_hex(8))
    nodes = Nodes(os.environ[MARK])
    try:
        ray.init(address=nodes.local.address, log_to_driver=False, logging_level="error")
        yield nodes
    finally:
        ray.shutdown()
        nodes.local.shutdown()
