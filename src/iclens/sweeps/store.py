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
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from iclens.errors import UserError
from iclens.sweeps import run_folder, verification
from iclens.sweeps.catalogue import DAMAGED, INDEX, Catalogue
from iclens.sweeps.folders import is_key, is_temporary, writing
from iclens.sweeps.index_rows import Row
from iclens.sweeps.result import Result
from iclens.sweeps.run_folder import Configuration, Run
from iclens.sweeps.verification import Problem
from iclens.work.workers import is_alive

if TYPE_CHECKING:
    from torch import Tensor

C = TypeVar("C", bound=Configuration)

_WRITERS = 8
"""Threads that write runs which arrive together: most of their time they wait for the disk."""


UNFINISHED = "unfinished"
"""Folder of a store for checkpoints."""


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
            database, or an older or a newer iclens wrote it.
    """

    def __init__(self, path: str | Path, *, create: bool = True, rebuild: bool = False) -> None:
        self.path = Path(path)
        self._catalogue = Catalogue(self.path)
        self._index, self._runs = self._catalogue.index, self._catalogue.runs
        self.notes = self._catalogue.notes
        self._frozen: list[Row] | None = None
        if not self._catalogue.exists():
            if not create:
                raise UserError(
                    f"there is no store of runs in {self.path}: `iclens train` and `iclens sweep` make one; name"
                    " another with --store."
                )
            self._catalogue.make_folders()
        self.read_only = not all(map(_writable, (self.path, self._runs.path, self._index.path)))
        if self.read_only:
            self._frozen = self._catalogue.frozen_rows()
            return
        self._catalogue.make_folders()
        if rebuild:
            self._catalogue.rebuild("asked for", even_if_sound=True)
        self._catalogue.open()

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def has(self, key: str) -> bool:
        """Return whether a run of that key has finished or diverged."""
        if self._frozen is not None:
            return any(row.key == key for row in self._frozen)
        return self._catalogue.healed(lambda: self._index.has(key))

    def keys(self) -> set[str]:
        """Return the keys of all runs."""
        if self._frozen is not None:
            return {row.key for row in self._frozen}
        return self._catalogue.healed(self._index.keys)

    def missing(self, configs: Iterable[C]) -> list[C]:
        """Those configurations, in order, whose runs are not in the store."""
        present = self.keys()
        return [config for config in configs if config.key() not in present]

    def rows(self) -> list[Row]:
        """All runs as the index lists them, in the order in which they were added."""
        if self._frozen is not None:
            return list(self._frozen)
        return self._catalogue.healed(self._index.rows)

    def find(self, prefix: str) -> str:
        """Return the one key that begins so.

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
        """Return the run of a key; its files are read when asked for.

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
        self._check_addable(key)
        if self.has(key):
            return False
        return key in self.add_packed({key: run_folder.pack(config, tensors, metrics, result)})

    def add_packed(self, runs: Mapping[str, Mapping[str, bytes]]) -> set[str]:
        """Keep finished runs that were packed by `run_folder.pack`, perhaps on other machines.

        Many at once take less time than one by one: the disk is waited for together.

        Args:
            runs: their files by key.

        Returns:
            the keys of those that the store did not have.

        Raises:
            UserError: files are not what was packed (nothing is then added), or the store cannot be written (some may
                be there then, each whole).
        """
        for key, files in runs.items():
            self._check_addable(key)
            run_folder.check_packed(key, files)
        new = [key for key in runs if not ((self._runs / key).exists() and self.has(key))]
        for key in new:
            self._clear(key)
        if not new:
            return set()
        first = self._catalogue.healed(self._index.next_number)
        added: set[str] = set()

        def place(key: str, number: int) -> None:
            if self._runs.place(key, run_folder.numbered(key, runs[key], number)):
                added.add(key)

        try:
            with self._catalogue.locked(), ThreadPoolExecutor(min(_WRITERS, len(new))) as pool:
                for _ in pool.map(place, new, range(first, first + len(new))):
                    pass
        finally:
            # Also those that another process has placed just now: it may not have listed them yet, or never will.
            there = [key for key in new if (self._runs / key).exists()]
            if there:
                self._catalogue.healed(lambda: self._catalogue.enter(there))
        return added

    def remove(self, key: str) -> None:
        """Delete a run.

        Raises:
            UserError: there is no such run, or it cannot be deleted.
        """
        self.check_writable()
        if not self.has(key):
            raise UserError(f"no run {key!r} in {self.path}.")
        # First out of the way in one step, so that a killed process leaves a leftover and not half a run.
        with self._catalogue.locked(exclusive=True):
            trash = self._runs.take_out(key)
        self._catalogue.healed(lambda: self._index.delete([key]))
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
            UserError: a run was written by an older or a newer iclens.
        """
        problems = verification.problems_of(self._catalogue, self._frozen)
        if repair:
            self.check_writable()
            self._catalogue.healed(lambda: verification.repair(self._catalogue, problems))
        return problems

    def gc(self, *, damaged: bool = False) -> list[Path]:
        """Delete what killed processes left, checkpoints whose runs are all here, and indexes that were set aside.

        Args:
            damaged: also delete the damaged runs that a repair has set aside.

        Returns:
            the deleted files and folders.

        Raises:
            UserError: something cannot be deleted.
        """
        self.check_writable()
        unneeded = self.unneeded_checkpoints() + self._abandoned_checkpoints()
        # Writers hold the lock together while their folder is temporary: whoever holds it alone sees only dead ones.
        with self._catalogue.locked(exclusive=True), writing(f"collect leftovers in {self.path}"):
            found = [self._runs / name for name in sorted(self._runs.names()) if is_temporary(name)]
            found += sorted(self.path.glob(f"{INDEX}.damaged-*"))
            found += unneeded
            if damaged and (self.path / DAMAGED).exists():
                found.append(self.path / DAMAGED)
            for path in found:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        return found

    def checkpoints(self) -> list[Path]:
        """Return the states of unfinished runs."""
        return sorted((self.path / UNFINISHED).glob("*.safetensors"))

    def unneeded_checkpoints(self) -> list[Path]:
        """Checkpoints all of whose runs are here."""
        from iclens.training.checkpoint import checkpoint_keys

        kept = ((path, checkpoint_keys(path)) for path in self.checkpoints())
        return [path for path, keys in kept if keys and all(map(self.has, keys))]

    def _abandoned_checkpoints(self) -> list[Path]:
        """Return what was being written by processes that are dead."""
        found = []
        for path in sorted((self.path / UNFINISHED).glob(".*.tmp")):
            number = path.stem.rpartition("-")[2].partition("_")[0]
            if not (number.isdecimal() and is_alive(int(number))):
                found.append(path)
        return found

    def _clear(self, key: str) -> None:
        """Make room for a run whose place is taken by a damaged one."""
        if (self._runs / key).exists():
            with self._catalogue.locked(exclusive=True):
                if (self._runs / key).exists() and run_folder.damage(self._runs / key):
                    self._catalogue.set_aside(key)

    def _check_addable(self, key: str) -> None:
        if not is_key(key):
            raise UserError(f"{key!r} is not a run's key: 8 to 64 hexadecimal digits.")
        self.check_writable()

    def check_writable(self) -> None:
        """Refuse a store that cannot be written to.

        Raises:
            UserError: there is no permission to write there.
        """
        if self.read_only:
            raise UserError(f"the store {self.path} is read-only: no permission to write there.")


def _writable(path: Path) -> bool:
    return not path.exists() or os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
