"""The catalogue of a store: one row for every run in an SQLite file, which can always be made again from the runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from iclens.errors import UserError
from iclens.sweeps.index_rows import COLUMNS, TABLE, IndexDamaged, Row, rows_of, sealed_digest, unsealed
from iclens.sweeps.run_folder import SCHEMA, OtherSchema

BUSY_SECONDS = 60.0
"""How long a writer waits for the others."""

_APPLICATION = 0x49434C53
"""Marks an SQLite file as ours ("ICLS")."""

_FROZEN = "ro&immutable=1"

_NEXT = "(SELECT coalesce(max(number), 0) + 1 FROM runs)"


@dataclass(frozen=True)
class Index:
    """The SQLite file; every operation has its own connection, so that processes and threads may share it.

    Attributes:
        path: the file.
    """

    path: Path

    def state(self, *, frozen: bool = False) -> str:
        """`new` (absent or empty), `ours`, or `foreign` (another program's database).

        Args:
            frozen: see `rows`.

        Raises:
            IndexDamaged: no SQLite file, or damaged in its first pages.
            OtherSchema: written by an older or a newer iclens.
        """
        if not self.path.exists():
            return "new"
        with self._connected(_FROZEN if frozen else "rw") as db:
            application = db.execute("PRAGMA application_id").fetchone()[0]
            schema = db.execute("PRAGMA user_version").fetchone()[0]
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if application != _APPLICATION:
            if "runs" in tables:
                raise IndexDamaged("its mark is not ours")
            return "foreign" if tables or application else "new"
        if schema != SCHEMA:
            raise OtherSchema.of(
                f"{self.path.parent}", schema, " If none did, its index is damaged: `iclens runs verify --rebuild`."
            )
        return "ours"

    def create(self) -> None:
        """Make the table in a new file; in one that has it, nothing."""
        with self._connected("rwc") as db:
            # Writers then do not wait for readers. The mode stays with the file.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("BEGIN IMMEDIATE")
            db.execute(TABLE)
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {SCHEMA}")
            db.execute("COMMIT")

    def keys(self) -> set[str]:
        """Return the keys of all rows."""
        with self._connected() as db:
            keys = {key for (key,) in db.execute("SELECT key FROM runs")}
        if not all(isinstance(key, str) for key in keys):
            raise IndexDamaged("a key is not a text")
        return keys

    def has(self, key: str) -> bool:
        """Return whether there is a row of that key."""
        with self._connected() as db:
            return db.execute("SELECT 1 FROM runs WHERE key = ?", (key,)).fetchone() is not None

    def rows(self, *, frozen: bool = False) -> list[Row]:
        """All rows, in the order in which they were added.

        Args:
            frozen: nobody writes: read the file as it is, without the files beside it that SQLite would make.
        """
        with self._connected(_FROZEN if frozen else "rw") as db:
            found = db.execute(f"SELECT {COLUMNS} FROM runs ORDER BY number").fetchall()
        return rows_of([unsealed(row) for row in found])

    def next_number(self) -> int:
        """One more than the number of any row."""
        with self._connected() as db:
            return int(db.execute(f"SELECT {_NEXT}").fetchone()[0])

    def insert(self, rows: Iterable[tuple[int, str, str, str, str]]) -> None:
        """Add rows (number, key, configuration and result as JSON, digest) after those that are there.

        A row gets its number, or the next one if that is larger, as when two processes added runs at once. Keys that
        have a row already are passed over.
        """
        with self._connected() as db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                f"INSERT OR IGNORE INTO runs (number, {COLUMNS}) VALUES (max(?, {_NEXT}), ?, ?, ?, ?)",
                [
                    (number, key, config, result, sealed_digest(key, config, result, digest))
                    for number, key, config, result, digest in rows
                ],
            )
            db.execute("COMMIT")

    def delete(self, keys: Iterable[str]) -> None:
        """Take rows out; keys without a row are passed over."""
        with self._connected() as db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("DELETE FROM runs WHERE key = ?", [(key,) for key in keys])
            db.execute("COMMIT")

    def check(self) -> None:
        """Let SQLite look at every page, and compare every row with its seal.

        Raises:
            IndexDamaged: something is not what was written.
        """
        with self._connected() as db:
            found = [text for (text,) in db.execute("PRAGMA integrity_check(3)")]
        if found != ["ok"]:
            raise IndexDamaged("; ".join(str(text) for text in found))
        self.rows()

    def set_aside(self) -> Path | None:
        """Rename the file and those that SQLite keeps beside it; the new name, or None where there was none."""
        if not self.path.exists():
            return None
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        for suffix in ("-wal", "-shm", ""):
            beside = Path(f"{self.path}{suffix}")
            if beside.exists():
                beside.rename(f"{aside}{suffix}")
        return aside

    @contextmanager
    def _connected(self, mode: str = "rw") -> Iterator[sqlite3.Connection]:
        db = None
        try:
            db = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None
            )
            # The runs are on the disk before their rows; rows that a power failure takes are found again.
            db.execute("PRAGMA synchronous = NORMAL")
            yield db
        except sqlite3.Error as error:
            raise self._translated(error, lost=mode != "rwc" and not self.path.exists()) from error
        except UnicodeDecodeError as error:  # SQLite's message quoted a damaged page
            raise IndexDamaged("its pages are not what was written") from error
        finally:
            if db is not None:
                db.close()

    def _translated(self, error: sqlite3.Error, *, lost: bool) -> Exception:
        code = getattr(error, "sqlite_errorcode", None)
        # A file that ends too early is damaged; other failures to read are the disk's.
        primary = None if code in (None, sqlite3.SQLITE_IOERR_SHORT_READ) else code & 0xFF
        refusals = {
            sqlite3.SQLITE_FULL: "the disk is full",
            sqlite3.SQLITE_READONLY: "it is read-only",
            sqlite3.SQLITE_PERM: "no permission",
            sqlite3.SQLITE_CANTOPEN: "it cannot be opened; is the folder writable?",
            sqlite3.SQLITE_BUSY: f"other processes kept it busy for {BUSY_SECONDS:.0f} s",
            sqlite3.SQLITE_LOCKED: "another process holds it",
            sqlite3.SQLITE_NOMEM: "not enough memory",
            sqlite3.SQLITE_IOERR: f"{error}",
        }
        if primary in refusals and not lost:
            return UserError(f"the index {self.path}: {refusals[primary]}. Finished runs are not touched by that.")
        return IndexDamaged(str(error))
