"""Finished parts of a recipe's work, kept on disk so that an interrupted run can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from iclens.recipes.contract import Part, Recipe
from iclens.recipes.settings import without_places
from iclens.recipes.table import Table
from iclens.work.parts import Parts


def work_key(recipe: Recipe[Any], settings: Any, version: str) -> str:
    """What finished work belongs to: a hash of the recipe, its revision, its settings and iclens's version.

    Settings that only say where something lies are left out: what lies there is in `Recipe.inputs`.
    """
    known = {"recipe": recipe.id, "revision": recipe.revision, "settings": without_places(settings), "iclens": version}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


class PartStore(Parts):
    """The folder `parts` of one recipe's output: a file a finished part.

    Args:
        folder: where the files are.
        key: of the work, or of each part's; files with another key are as if they were not there.
    """

    def __init__(self, folder: Path, key: str | Callable[[Part], str]) -> None:
        super().__init__(folder)
        self._key = key

    def load(self, part: Part) -> tuple[Table, float] | None:
        """The part's rows and the seconds they took, or None when it is not finished."""
        content = self.read(self._name(part))
        if content is None:
            return None
        kept = json.loads(content)
        return Table.from_json_columns(kept["columns"]), float(kept["seconds"])

    def save(self, part: Part, table: Table, seconds: float) -> None:
        """Keep a finished part.

        Raises:
            UserError: the disk is full, or the folder cannot be written to.
        """
        kept = {"seconds": seconds, "columns": table.to_columns()}
        self.write(self._name(part), json.dumps(kept, allow_nan=False).encode())

    def holds_others(self, parts: Iterable[Part]) -> bool:
        """Whether finished parts lie there beside these: of a larger run that takes these too, for one."""
        return self.others({self._name(part) for part in parts}) > 0

    def _name(self, part: Part) -> str:
        key = self._key(part) if callable(self._key) else self._key
        return hashlib.sha256(json.dumps([key, sorted(part.items())]).encode()).hexdigest()[:16]
