"""Finished parts of a recipe's work, kept on disk so that an interrupted run can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.recipes.contract import Part, Recipe
from iclens.recipes.table import Table
from iclens.work.sealed import is_whole, sealed

Write = Callable[[Path, str | bytes], None]
"""Writes a file whole or not at all, such as `iclens.cli.output.write_atomically`."""


def work_key(recipe: Recipe[Any], settings: Any, version: str) -> str:
    """What finished work belongs to: a hash of the recipe, its revision, its settings and iclens's version."""
    known = {"recipe": recipe.id, "revision": recipe.revision, "settings": asdict(settings), "iclens": version}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


class PartStore:
    """The folder `parts` of one recipe's output: a file a finished part.

    Args:
        folder: where the files are.
        key: of the work; files with another key are as if they were not there.
        write: how a file is written.
    """

    def __init__(self, folder: Path, key: str, write: Write) -> None:
        self._folder = folder
        self._key = key
        self._write = write

    def load(self, part: Part) -> tuple[Table, float] | None:
        """The part's rows and the seconds they took, or None when it is not finished."""
        try:
            kept = json.loads(self._file(part).read_text(encoding="utf-8"))
            if not is_whole(kept) or kept["key"] != self._key or kept["part"] != dict(part):
                return None
            return Table.from_json_columns(kept["columns"]), float(kept["seconds"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            # A file that does not read back, or not as it was written, is a part that is not finished.
            return None

    def save(self, part: Part, table: Table, seconds: float) -> None:
        """Keep a finished part.

        Raises:
            UserError: the disk is full, or the folder cannot be written to.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot create the folder {self._folder}: {error.strerror or error}.") from error
        kept = {"key": self._key, "part": dict(part), "seconds": seconds, "columns": table.to_columns()}
        self._write(self._file(part), json.dumps(sealed(kept), allow_nan=False))

    def discard(self) -> None:
        """Forget all parts, whatever they belong to."""
        # Among them what a process that was killed while it wrote has left.
        for pattern in ("*.json", ".iclens-*.tmp"):
            for file in self._folder.glob(pattern):
                file.unlink(missing_ok=True)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _file(self, part: Part) -> Path:
        name = json.dumps([self._key, sorted(part.items())])
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
