"""Progress of long work on a terminal's standard error."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from iclens.cli.output import note


@contextmanager
def bar(steps: Sequence[int], task: str = "training") -> Iterator[Callable[[int, int], None]]:
    """A bar over all that is to be done; nothing where standard error is not a terminal.

    Args:
        steps: of every chunk of the work, e.g. its training steps.
        task: what is being done.

    Yields:
        a function of (index of the chunk, steps done in it).
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    done = [0] * len(steps)
    columns = (
        TextColumn(task),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        row = progress.add_task("steps", total=sum(steps))

        def report(chunk: int, step: int) -> None:
            done[chunk] = step
            progress.update(row, completed=sum(done))

        yield report


@contextmanager
def resumable() -> Iterator[None]:
    """Say after Ctrl-C that nothing is lost; SIGTERM, by which Slurm and Kubernetes end a process, is one as well."""
    try:
        with _stopped_by_sigterm():
            yield
    except KeyboardInterrupt:
        note("stopped; the same command goes on from here")
        raise


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    # Only the main thread may; None: a handler that was not set by Python cannot be set again by it.
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
