"""What a command prints and writes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from iclens.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

PIPE_WIDTH = 160
"""Columns when standard output is not a terminal, so that a table keeps its cells on one line."""


def say(text: str) -> None:
    """Print plain text to standard output; brackets in it are not markup."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Print plain text to standard error: progress and remarks that are not the result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def show(renderable: RenderableType) -> None:
    """Print a rich table or other renderable to standard output, without colours when piped."""
    console().print(renderable)


def console() -> Console:
    """Return a rich console on standard output, without colours when piped."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False)


def table(
    title: str,
    headings: Mapping[str, str] | Sequence[str],
    rows: Iterable[Iterable[str]],
    **options: Any,
) -> Table:
    """Make a rich table.

    Args:
        title: above it.
        headings: of the columns, with how each is justified; right when only named.
        rows: the cells.
        options: of the table.
    """
    from rich.table import Table

    made = Table(title=title, **options)
    sides = headings if isinstance(headings, Mapping) else {}
    for heading in headings:
        made.add_column(heading, justify=cast(Any, sides.get(heading, "right")), overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def check_at_least_one(**options: int | None) -> None:
    """Refuse options below 1; None was not given.

    Raises:
        UserError: the first of them.
    """
    for name, value in options.items():
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: it must be at least 1.")
