"""Calls on the machines of a Ray cluster, to the contract of `iclens.workers.each`."""

from iclens.cluster.connection import Cluster, connected, slots
from iclens.cluster.driver import TASK_SECONDS, each_on_cluster, tasks_of

__all__ = ["TASK_SECONDS", "Cluster", "connected", "each_on_cluster", "slots", "tasks_of"]
