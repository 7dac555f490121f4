"""How an explanation is shown and written: registries that upper rooms fill, so that none is imported from below."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from iclens.errors import UserError, did_you_mean
from iclens.registry import Registry
from iclens.work.whole_files import write_atomically

VIEWS: Registry[Callable[..., Any]] = Registry("view of an explanation", "iclens.views")
"""From an explanation to something to look at: `"text"`, `"rows"`, `"cell"`, `"plot"`, `"show"`."""

WRITERS: Registry[Callable[[Any], str | bytes]] = Registry("file format", "iclens.writers")
"""From an explanation to the content of a file, by the file's ending without its dot."""


def write(found: Any, path: Path) -> None:
    """Write an explanation to a file, whole or not at all, in the format that the file's ending names.

    Raises:
        UserError: an ending that is not known, or a file that cannot be written.
    """
    ending = path.suffix.lower().removeprefix(".")
    if ending not in WRITERS:
        known = [f".{name}" for name in WRITERS]
        hint = did_you_mean(f".{ending}", known)
        raise UserError(
            f"{path}: the ending says how to write an explanation.{hint} Known: {', '.join(sorted(known))}."
        )
    write_atomically(path, WRITERS[ending](found))
