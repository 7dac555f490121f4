"""Progress of long work on a terminal's standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from iclens.cli.output import note


@contextmanager
def bar(steps: Sequence[int], task: str = "training") -> Iterator[Callable[[int, int], None]]:
    """A bar over the steps of all chunks; nothing where standard error is not a terminal.

    Args:
        steps: steps of every chunk.
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
    """Say after Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        note("stopped; the same command goes on from here")
        raise


def duration(seconds: float) -> str:
    """A time in words, e.g. `3 min`."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"
