"""What a command prints and writes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

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
    """A rich console on standard output, without colours when piped."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False)
