"""One run trained by several processes, into a store that only the first of them touches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from iclens.sweeps.store import Store
from iclens.sweeps.sweep import train_into
from iclens.training.config import RunConfig
from iclens.training.distributed import Processes
from iclens.training.loop import train


def train_together(
    config: RunConfig,
    path: Path,
    processes: Processes,
    *,
    begin: Callable[[bool], None] | None = None,
    report: Callable[[int], None] | None = None,
) -> Store | None:
    """Train one run in all processes, and keep it; each of them calls this.

    The run's key and what is stored do not depend on the number of processes except for rounding and
    `Result.processes`, and a checkpoint is taken up by any number of them.

    Args:
        config: the run.
        path: the folder of the store, which the other processes need not see.
        processes: they.
        begin: called in the first process before training, with whether the store has the run already.
        report: called there with the number of steps done.

    Returns:
        the store, in the first process; None in the others.

    Raises:
        UserError: see `iclens.sweeps.sweep.train_into`; or the store is read-only.
    """
    store, present = None, False
    with processes.leading():
        if processes.first:
            store = Store(path)
            present = store.has(config.key())
            if not present:
                store.check_writable()
            if begin is not None:
                begin(present)
    if processes.told(present):
        return store
    if store is None:
        train([config], processes=processes)
    else:
        train_into(store, [config], device=processes.device.type, report=report, processes=processes)
    return store
