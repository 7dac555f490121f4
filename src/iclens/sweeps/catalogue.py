"""The folders of a store's runs and the index that lists them, brought in line with each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from iclens.errors import UserError
from iclens.sweeps import run_folder
from iclens.sweeps.folders import RunFolders, writing
from iclens.sweeps.index import Index
from iclens.sweeps.index_rows import IndexDamaged, Row
from iclens.sweeps.lock import locked
from iclens.sweeps.result import Result
from iclens.sweeps.run_folder import Damaged, OtherSchema

T = TypeVar("T")

INDEX, RUNS, DAMAGED, LOCK = "index.sqlite", "runs", "damaged", ".lock"
"""What lies in the folder of a store."""


class Catalogue:
    """What lies in a store's folder: the runs, which are the truth, and their index, which can be made again.

    Args:
        path: the folder.

    Attributes:
        path: the folder.
        runs: the folders of its runs.
        index: the list of them.
        notes: what had to be put right, a sentence each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs = RunFolders(path / RUNS, path / DAMAGED)
        self.index = Index(path / INDEX)
        self.notes: list[str] = []

    def exists(self) -> bool:
        """Return whether there is a store.

        Raises:
            UserError: a file has that name.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: a store of runs is a folder.")
        return self.index.path.exists() or bool(self.runs.keys())

    def make_folders(self) -> None:
        """Create what is missing.

        Raises:
            UserError: it cannot be created.
        """
        with writing(f"create the store {self.path}"):
            self.runs.path.mkdir(parents=True, exist_ok=True)

    def open(self) -> None:
        """Make the index where there is none, and list what it lacks.

        Raises:
            UserError: another program's database, or an older or a newer iclens wrote it.
        """
        self.healed(self._open_index)
        self.healed(self._reconcile)

    def locked(self, *, exclusive: bool = False) -> AbstractContextManager[None]:
        """Hold the store's lock: together with others to add runs, alone to take anything away."""
        return locked(self.path / LOCK, exclusive=exclusive)

    def enter(self, keys: Iterable[str]) -> int:
        """Give runs their rows, in the order in which they were added; those that are damaged get none.

        Returns:
            how many got one.
        """
        rows, orders = [], {}
        for key in keys:
            try:
                config, result, digest = run_folder.summary(self.runs / key)
            except Damaged as error:
                self.notes.append(f"{error} `iclens runs verify --repair` sets it aside.")
                continue
            orders[key] = Result.from_json(result).order
            rows.append((orders[key][0], key, config, result, digest))
        if rows:
            self.index.insert(sorted(rows, key=lambda row: (orders[row[1]], row[1])))
        return len(rows)

    def set_aside(self, key: str) -> None:
        """Move a damaged run out of the way."""
        self.notes.append(f"the damaged run {key} was set aside as {self.runs.set_aside(key)}.")

    def frozen_rows(self) -> list[Row]:
        """Return the rows of a store that cannot be written, brought in line with its folders in memory alone."""
        rows: list[Row] = []
        try:
            if self.index.path.exists() and self.index.state(frozen=True) == "ours":
                rows = self.index.rows(frozen=True)
        except IndexDamaged as error:
            self.notes.append(f"the index is damaged ({error}); the runs were read instead.")
        present = self.runs.keys()
        rows = [row for row in rows if row.key in present]
        unlisted = []
        for key in present - {row.key for row in rows}:
            try:
                unlisted.append(Row.of(key, *run_folder.summary(self.runs / key)))
            except Damaged as error:
                self.notes.append(str(error))
        return rows + sorted(unlisted, key=lambda row: (row.result.order, row.key))

    def healed(self, action: Callable[[], T]) -> T:
        """Return what the action gives; once more with a new index if it finds the old one damaged.

        Raises:
            UserError: the index cannot be made again.
        """
        try:
            return action()
        except IndexDamaged as error:
            self.heal(error)
            return action()

    def heal(self, error: IndexDamaged) -> None:
        """Make a damaged index again.

        Raises:
            UserError: it cannot be made again.
        """
        try:
            self.rebuild(str(error))
            self.index.check()
        except IndexDamaged as again:
            raise UserError(f"the index {self.index.path} cannot be made again: {again}.") from again

    def rebuild(self, reason: str, *, even_if_sound: bool = False) -> None:
        """Make the index again from the runs; the old one is kept under another name.

        Args:
            reason: why, for the note.
            even_if_sound: also if another process has done so already.

        Raises:
            UserError: another program's database, or runs of an older or a newer iclens.
        """
        with self.locked(exclusive=True), writing(f"make the index of {self.path} again"):
            if not even_if_sound and self._sound():
                return
            self._refuse_foreign()
            keys = self.runs.keys()
            # Before anything is touched: a store of another iclens is left as it is.
            for key in keys:
                run_folder.refuse_other(self.runs / key)
            aside = self.index.set_aside()
            self.index.create()
            listed = self.enter(keys)
        was = f" (the old one is {aside.name})" if aside else ""
        self.notes.append(f"the index was made again from {_count(listed)}{was}: {reason}.")

    def _open_index(self) -> None:
        if self.index.state() == "ours":
            return
        with self.locked(exclusive=True):
            self._refuse_foreign()
            # Another process may have made it meanwhile: in one that has its table, nothing is made.
            self.index.create()

    def _refuse_foreign(self) -> None:
        try:
            foreign = self.index.state() == "foreign"
        except (IndexDamaged, OtherSchema):
            foreign = False
        if foreign:
            raise UserError(f"{self.index.path} is another program's database: choose another folder.")

    def _reconcile(self) -> None:
        # The index is read first: a run that is added meanwhile is then found in the folder, never missed there.
        listed = self.index.keys()
        if listed == self.runs.keys():
            return
        with self.locked():
            listed = self.index.keys()
            present = self.runs.keys()
            if gone := listed - present:
                self.index.delete(gone)
                self.notes.append(f"{_count(len(gone))} of the index had no folder; taken out: {_some(gone)}.")
            if found := self.enter(present - listed):
                self.notes.append(f"{_count(found)} had no row in the index; added.")

    def _sound(self) -> bool:
        try:
            self.index.check()
            self.index.rows()
            return self.index.state() == "ours"
        except IndexDamaged:
            return False


def _count(number: int) -> str:
    return f"{number} run" if number == 1 else f"{number} runs"


def _some(keys: set[str]) -> str:
    return ", ".join(sorted(keys)[:3]) + (" …" if len(keys) > 3 else "")
