"""A store of finished runs: nothing is trained twice, and nothing that finished is lost.

```
<store>/
    index.sqlite      a catalogue for quick listing, see `iclens.sweeps.index`
    runs/<key>/       one folder a run, see `iclens.sweeps.run_folder`
    damaged/          damaged runs that a repair has set aside
```

The folders are the store. A run is written to a temporary folder, flushed to the disk and renamed, so that it is there
whole or not at all; then its row enters the index. A process killed between the two leaves a run without a row, which
the next opening adds. An index that is lost or damaged is made again from the folders.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from iclens.errors import UserError
from iclens.sweeps import run_folder
from iclens.sweeps.folders import RunFolders, is_key, is_temporary, writing
from iclens.sweeps.index import Index, IndexDamaged, Row
from iclens.sweeps.lock import locked
from iclens.sweeps.result import Result
from iclens.sweeps.run_folder import Configuration, Damaged, NewerSchema, Run

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
C = TypeVar("C", bound=Configuration)

_INDEX, _RUNS, _DAMAGED, _LOCK = "index.sqlite", "runs", "damaged", ".lock"


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be in a store.

    Attributes:
        kind: `damaged` (a run's files), `unlisted` (a run without a row), `missing` (a row without a run), `index`,
            `leftover` (of a killed process), or `foreign` (not of a store).
        name: the run's key, or the name of the file or folder.
        text: one sentence.
    """

    kind: Literal["damaged", "unlisted", "missing", "index", "leftover", "foreign"]
    name: str
    text: str


class Store:
    """A folder of finished runs, each named by the hash of its configuration.

    Any number of processes of one machine may add to a store at once. Opening it brings its index in line with its
    folders; what was done is said in `notes`. A store in a folder that cannot be written is opened for reading.

    Args:
        path: the folder.
        create: make a store there if there is none.
        rebuild: make the index again from the runs, whatever state it is in.

    Attributes:
        path: the folder.
        notes: what opening and reading had to put right, a sentence each.
        read_only: whether nothing can be added.

    Raises:
        UserError: there is no store and `create` is False, the folder cannot be made, its index is another program's
            database, or a newer iclens wrote it.
    """

    def __init__(self, path: str | Path, *, create: bool = True, rebuild: bool = False) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        self._index = Index(self.path / _INDEX)
        self._runs = RunFolders(self.path / _RUNS, self.path / _DAMAGED)
        self._frozen: list[Row] | None = None
        if not self._is_store():
            if not create:
                raise UserError(
                    f"there is no store of runs in {self.path}: `iclens train` and `iclens sweep` make one; name"
                    " another with --store."
                )
            self._make_folders()
        self.read_only = not all(map(_writable, (self.path, self._runs.path, self._index.path)))
        if self.read_only:
            self._frozen = self._frozen_rows()
            return
        self._make_folders()
        if rebuild:
            self._rebuild("asked for", even_if_sound=True)
        self._healed(self._open_index)
        self._healed(self._reconcile)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def has(self, key: str) -> bool:
        """Whether a run of that key has finished or diverged."""
        if self._frozen is not None:
            return any(row.key == key for row in self._frozen)
        return self._healed(lambda: self._index.has(key))

    def keys(self) -> set[str]:
        """The keys of all runs."""
        if self._frozen is not None:
            return {row.key for row in self._frozen}
        return self._healed(self._index.keys)

    def missing(self, configs: Iterable[C]) -> list[C]:
        """Those configurations, in order, whose runs are not in the store."""
        present = self.keys()
        return [config for config in configs if config.key() not in present]

    def rows(self) -> list[Row]:
        """All runs as the index lists them, in the order in which they were added."""
        if self._frozen is not None:
            return list(self._frozen)
        return self._healed(self._index.rows)

    def find(self, prefix: str) -> str:
        """The one key that begins so.

        Raises:
            UserError: none or several do.
        """
        found = sorted(key for key in self.keys() if key.startswith(prefix.lower()))
        if len(found) == 1:
            return found[0]
        if not found:
            raise UserError(f"no run in {self.path} has a key that begins with {prefix!r}.")
        shown = ", ".join(found[:5]) + (" …" if len(found) > 5 else "")
        raise UserError(f"{len(found)} runs in {self.path} have keys that begin with {prefix!r}: {shown}.")

    def load(self, key: str) -> Run:
        """The run of a key; its files are read when asked for.

        Raises:
            UserError: there is no such run.
        """
        if not self.has(key):
            raise UserError(f"no run {key!r} in {self.path}.")
        return Run(key, self._runs / key)

    def add(
        self,
        config: Configuration,
        tensors: Mapping[str, Tensor],
        metrics: Iterable[tuple[Any, ...]],
        result: Result,
    ) -> bool:
        """Keep a finished run.

        Args:
            config: its configuration, e.g. a `RunConfig`.
            tensors: its parameters, without the axis of runs.
            metrics: rows (step, name, prefix or None, value), see `Metric`.
            result: how it ended; `final` is filled from the metrics.

        Returns:
            False if the store has that run already, which is then left as it is.

        Raises:
            UserError: the store cannot be written (a full disk, no permission); nothing half-written stays.
        """
        key = config.key()
        if not is_key(key):
            raise UserError(f"{key!r} is not a run's key: 8 to 64 hexadecimal digits.")
        self._check_writable()
        if self.has(key):
            return False
        self._clear(key)
        files = run_folder.pack(config, tensors, metrics, result)
        with self._locked():
            added = self._runs.place(key, files)
        self._healed(lambda: self._list([key]))
        return added

    def remove(self, key: str) -> None:
        """Delete a run.

        Raises:
            UserError: there is no such run, or it cannot be deleted.
        """
        self._check_writable()
        if not self.has(key):
            raise UserError(f"no run {key!r} in {self.path}.")
        # First out of the way in one step, so that a killed process leaves a leftover and not half a run.
        with self._locked(exclusive=True):
            trash = self._runs.take_out(key)
        self._healed(lambda: self._index.delete([key]))
        if trash is not None:
            shutil.rmtree(trash, ignore_errors=True)

    def verify(self, *, repair: bool = False) -> list[Problem]:
        """Compare every byte with its checksum, and the index with the runs.

        Args:
            repair: put right what can be: damaged runs go to the folder `damaged` (they then count as missing and can
                be trained again), the index is corrected. Leftovers are for `gc`, foreign files are left alone.

        Returns:
            what was found, before any repair.

        Raises:
            UserError: a run was written by a newer iclens.
        """
        problems: list[Problem] = []
        if self._frozen is None:
            try:
                self._index.check()
            except IndexDamaged as error:
                problems.append(Problem("index", _INDEX, f"the index is damaged: {error}."))
                self._heal(error)
        rows = {row.key: row for row in self.rows()}
        names = self._runs.names()
        for key in sorted(set(rows) | {name for name in names if is_key(name)}):
            problems += self._run_problems(key, rows.get(key), key in names)
        problems += self._strangers(names)
        if repair:
            self._check_writable()
            self._healed(lambda: self._repair(problems))
        return problems

    def gc(self, *, damaged: bool = False) -> list[Path]:
        """Delete what killed processes left, and indexes that were set aside.

        Args:
            damaged: also delete the damaged runs that a repair has set aside.

        Returns:
            the deleted files and folders.

        Raises:
            UserError: something cannot be deleted.
        """
        self._check_writable()
        # Writers hold the lock together while their folder is temporary: whoever holds it alone sees only dead ones.
        with self._locked(exclusive=True), writing(f"collect leftovers in {self.path}"):
            found = [self._runs / name for name in sorted(self._runs.names()) if is_temporary(name)]
            found += sorted(self.path.glob(f"{_INDEX}.damaged-*"))
            if damaged and (self.path / _DAMAGED).exists():
                found.append(self.path / _DAMAGED)
            for path in found:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        return found

    def _is_store(self) -> bool:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: a store of runs is a folder.")
        if self._index.path.exists():
            return True
        return bool(self._runs.keys())

    def _make_folders(self) -> None:
        with writing(f"create the store {self.path}"):
            self._runs.path.mkdir(parents=True, exist_ok=True)

    def _open_index(self) -> None:
        if self._index.state() == "ours":
            return
        with self._locked(exclusive=True):
            # Looked at once more: another process may have made or migrated it meanwhile.
            self._refuse_foreign()
            state = self._index.state()
            if state == "new":
                self._index.create()
            elif state == "older":
                self._index.migrate()
                self.notes.append("the store was brought to this version's schema.")

    def _refuse_foreign(self) -> None:
        try:
            foreign = self._index.state() == "foreign"
        except (IndexDamaged, NewerSchema):
            foreign = False
        if foreign:
            raise UserError(f"{self._index.path} is another program's database: choose another folder.")

    def _reconcile(self) -> None:
        # The index is read first: a run that is added meanwhile is then found in the folder, never missed there.
        listed = self._index.keys()
        if listed == self._runs.keys():
            return
        with self._locked():
            listed = self._index.keys()
            present = self._runs.keys()
            if gone := listed - present:
                self._index.delete(gone)
                self.notes.append(f"{_runs(len(gone))} of the index had no folder; taken out: {_some(gone)}.")
            if found := self._list(present - listed):
                self.notes.append(f"{_runs(found)} had no row in the index; added.")

    def _list(self, keys: Iterable[str]) -> int:
        """Give runs their rows; those that are damaged get none."""
        rows, ends = [], {}
        for key in keys:
            try:
                config, result, digest = run_folder.summary(self._runs / key)
            except Damaged as error:
                self.notes.append(f"{error} `iclens runs verify --repair` sets it aside.")
                continue
            rows.append((key, config, result, digest))
            ends[key] = Result.from_json(result).ended
        if rows:
            self._index.insert(sorted(rows, key=lambda row: (ends[row[0]], row[0])))
        return len(rows)

    def _clear(self, key: str) -> None:
        """Make room for a run whose place is taken by a damaged one."""
        if (self._runs / key).exists():
            with self._locked(exclusive=True):
                if (self._runs / key).exists() and run_folder.damage(self._runs / key):
                    self._set_aside(key)

    def _set_aside(self, key: str) -> None:
        self.notes.append(f"the damaged run {key} was set aside as {self._runs.set_aside(key)}.")

    def _run_problems(self, key: str, row: Row | None, present: bool) -> list[Problem]:
        if not present:
            if self._frozen is None and not self.has(key):
                return []  # removed by another process while this one looked
            return [Problem("missing", key, f"run {key} is in the index, but has no folder.")]
        folder = self._runs / key
        found = run_folder.damage(folder)
        if found:
            if not folder.exists():
                return []
            return [Problem("damaged", key, text) for text in found]
        if row is None:
            # A run that was added after the index was read has its row by now.
            return [] if self.has(key) else [Problem("unlisted", key, f"run {key} is not in the index.")]
        own = Row.of(key, *run_folder.summary(folder))
        # As text, because NaN is not equal to itself.
        if (row.config, row.result.to_json(), row.digest) != (own.config, own.result.to_json(), own.digest):
            return [Problem("index", key, f"the index does not say of run {key} what its files say.")]
        return []

    def _strangers(self, names: set[str]) -> list[Problem]:
        leftovers = sorted(name for name in names if is_temporary(name))
        problems = []
        if leftovers and not self.read_only:
            with self._locked(exclusive=True):
                leftovers = sorted(set(leftovers) & self._runs.names())
        for name in leftovers:
            text = f"{_RUNS}/{name} was left by a process that was killed: `iclens runs gc` deletes it."
            problems.append(Problem("leftover", name, text))
        for name in sorted(names):
            if not is_temporary(name) and not is_key(name):
                problems.append(Problem("foreign", name, f"{_RUNS}/{name} is not a run; it is left alone."))
        return problems

    def _repair(self, problems: Sequence[Problem]) -> None:
        wrong = {problem.name for problem in problems if is_key(problem.name)}
        if not wrong:
            return
        with self._locked(exclusive=True):
            for key in sorted(wrong & self._runs.keys()):
                if run_folder.damage(self._runs / key):
                    self._set_aside(key)
            self._index.delete(wrong)
            self._list(wrong & self._runs.keys())

    def _frozen_rows(self) -> list[Row]:
        """The rows of a store that cannot be written, brought in line with its folders in memory alone."""
        rows: list[Row] = []
        try:
            if self._index.path.exists() and self._index.state(frozen=True) == "ours":
                rows = self._index.rows(frozen=True)
        except IndexDamaged as error:
            self.notes.append(f"the index is damaged ({error}); the runs were read instead.")
        present = self._runs.keys()
        rows = [row for row in rows if row.key in present]
        for key in sorted(present - {row.key for row in rows}):
            try:
                rows.append(Row.of(key, *run_folder.summary(self._runs / key)))
            except Damaged as error:
                self.notes.append(str(error))
        return rows

    def _healed(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except IndexDamaged as error:
            self._heal(error)
            return action()

    def _heal(self, error: IndexDamaged) -> None:
        try:
            self._rebuild(str(error))
            self._index.check()
        except IndexDamaged as again:
            raise UserError(f"the index {self._index.path} cannot be made again: {again}.") from again

    def _rebuild(self, reason: str, *, even_if_sound: bool = False) -> None:
        with self._locked(exclusive=True), writing(f"make the index of {self.path} again"):
            if not even_if_sound and self._sound():
                return  # another process has done it
            self._refuse_foreign()
            keys = self._runs.keys()
            # Before anything is touched: a store of a newer iclens is left as it is.
            for key in keys:
                run_folder.refuse_newer(self._runs / key)
            aside = self._index.set_aside()
            self._index.create()
            listed = self._list(keys)
        was = f" (the old one is {aside.name})" if aside else ""
        self.notes.append(f"the index was made again from {_runs(listed)}{was}: {reason}.")

    def _sound(self) -> bool:
        try:
            self._index.check()
            self._index.rows()
            return self._index.state() == "ours"
        except IndexDamaged:
            return False

    def _check_writable(self) -> None:
        if self.read_only:
            raise UserError(f"the store {self.path} is read-only: no permission to write there.")

    def _locked(self, *, exclusive: bool = False) -> AbstractContextManager[None]:
        """Hold the store's lock: together with others to add runs, alone to take anything away."""
        return locked(self.path / _LOCK, exclusive=exclusive)


def _writable(path: Path) -> bool:
    return not path.exists() or os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _some(keys: set[str]) -> str:
    return ", ".join(sorted(keys)[:3]) + (" …" if len(keys) > 3 else "")
