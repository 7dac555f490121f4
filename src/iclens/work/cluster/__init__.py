"""Calls on the machines of a Ray cluster, to the contract of `iclens.work.workers.each`."""

from iclens.work.cluster.connection import Cluster, connected, slots
from iclens.work.cluster.driver import TASK_SECONDS, each_on_cluster, tasks_of

__all__ = ["TASK_SECONDS", "Cluster", "connected", "each_on_cluster", "slots", "tasks_of"]
