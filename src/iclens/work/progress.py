"""Progress of long work on a terminal's standard error."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def stages(task: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal's standard error which stage of a task is running; say nothing when it is piped.

    Args:
        task: what is being done, e.g. `"explaining"`.

    Yields:
        a function to be called with the name of each stage before it starts.
    """
    from rich.console import Console

    with Console(file=sys.stderr).status(task) as status:
        yield lambda name: status.update(f"{task}: {name}")


@contextmanager
def bar(steps: Sequence[int], task: str = "training") -> Iterator[Callable[..., None]]:
    """Show a bar over all that is to be done; nothing where standard error is not a terminal.

    Args:
        steps: of every chunk of the work, e.g. its training steps.
        task: what is being done.

    Yields:
        a function of (index of the chunk, steps done in it, and what is being done now if that has changed).
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
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not (console.is_terminal or console.is_jupyter),
        # What is printed meanwhile may be on its way to a file.
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        row = progress.add_task(task, total=sum(steps))

        def report(chunk: int, step: int, message: str | None = None) -> None:
            done[chunk] = step
            progress.update(row, completed=sum(done), description=message)

        yield report


def duration(seconds: float | int) -> str:
    """Format a time to be read, e.g. `0.4 s`, `12 s`, `3 min`, `2 h 5 min`."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
