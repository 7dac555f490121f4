"""The catalogue of a store: one row for every run in an SQLite file, which can always be made again from the runs."""

from __future__ import annotations

import gc
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.sweeps.result import Result
from iclens.sweeps.run_folder import SCHEMA, NewerSchema

BUSY_SECONDS = 60.0
"""How long a writer waits for the others."""

_APPLICATION = 0x49434C53
"""Marks an SQLite file as ours ("ICLS")."""

_FROZEN = "ro&immutable=1"

_COLUMNS = "key, config, result, digest"

_TABLE = """CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    config TEXT NOT NULL,
    result TEXT NOT NULL,
    digest TEXT NOT NULL
)"""

_NEXT = "(SELECT coalesce(max(number), 0) + 1 FROM runs)"


_SEAL = ":"
"""Stands between the digest of a run and the seal of its row, which are one cell."""


def _sealed(key: str, config: str, result: str, digest: str) -> str:
    """The digest with a checksum of the row: SQLite has none, and would give a flipped digit as it is."""
    content = "\0".join((key, config, result, digest)).encode("utf-8", "surrogatepass")
    return f"{digest}{_SEAL}{hashlib.sha256(content).hexdigest()}"


def _unsealed(row: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
    key, config, result, cell = row
    if not all(isinstance(text, str) for text in row) or cell != _sealed(
        key, config, result, digest := cell.partition(_SEAL)[0]
    ):
        raise IndexDamaged("a row is not what was written")
    return key, config, result, digest


def _number_rows(db: sqlite3.Connection, _folder: Path) -> None:
    """From schema 1 to 2: the order of the rows, which only SQLite told, gets a column, and every row a seal."""
    db.execute("ALTER TABLE runs RENAME TO runs_1")
    db.execute(_TABLE)
    db.create_function("sealed", 4, _sealed, deterministic=True)
    with_seals = "key, config, result, sealed(key, config, result, digest)"
    db.execute(f"INSERT INTO runs ({_COLUMNS}) SELECT {with_seals} FROM runs_1 ORDER BY rowid")
    db.execute("DROP TABLE runs_1")


MIGRATIONS: dict[int, Callable[[sqlite3.Connection, Path], None]] = {1: _number_rows}
"""Steps from an older schema to the next, by the older one's number; called with the index and the store's folder."""


@contextmanager
def nothing_collected() -> Iterator[None]:
    """No search for garbage inside: among a hundred thousand new objects, none of them garbage, it doubles the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class IndexDamaged(Exception):
    """The index is lost or not readable; the runs are not touched by that."""


@dataclass(frozen=True)
class Row:
    """A run as the index lists it.

    Attributes:
        key: its name.
        config: plain nested values.
        result: how it ended, with the last value of each metric.
        digest: SHA-256 of its checksums.
    """

    key: str
    config: dict[str, Any]
    result: Result
    digest: str

    @staticmethod
    def of(key: Any, config: Any, result: Any, digest: Any) -> Row:
        """A row from its texts: configuration and result are JSON.

        Raises:
            IndexDamaged: they are not what the store writes.
        """
        return _rows([(key, config, result, digest)])[0]


def _rows(found: list[tuple[Any, Any, Any, Any]]) -> list[Row]:
    """Rows from their texts; the JSON of all of them is read at once, which halves the time."""
    if not found:
        return []
    keys, configs, results, digests = zip(*found, strict=True)
    try:
        with nothing_collected():
            tables = json.loads(f"[{','.join(configs)}]")
            ends = map(Result.from_plain, json.loads(f"[{','.join(results)}]"))
            rows = [Row(*parts) for parts in zip(keys, tables, ends, digests, strict=True)]
    except (ValueError, TypeError, RecursionError) as error:
        raise IndexDamaged(f"a row cannot be read: {error}") from None
    if not all(isinstance(row.key, str) and isinstance(row.config, dict) for row in rows):
        raise IndexDamaged("a row is not what was written")
    return rows


@dataclass(frozen=True)
class Index:
    """The SQLite file; every operation has a connection of its own, so that processes and threads may share it.

    Attributes:
        path: the file.
    """

    path: Path

    def state(self, *, frozen: bool = False) -> str:
        """`new` (absent or empty), `ours` (of this schema), `older`, or `foreign` (another program's database).

        Args:
            frozen: see `rows`.

        Raises:
            IndexDamaged: no SQLite file, or damaged in its first pages.
            NewerSchema: written by a newer iclens.
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
        if schema > SCHEMA:
            raise NewerSchema(
                f"{self.path.parent} was written by a newer iclens (store schema {schema}; this one reads up to"
                f" {SCHEMA}): update iclens. If no newer one did, its index is damaged: `iclens runs verify --rebuild`."
            )
        return "ours" if schema == SCHEMA else "older"

    def create(self) -> None:
        """Make the table in a new file; in one that has it, nothing."""
        with self._connected("rwc") as db:
            # Writers then do not wait for readers. The mode stays with the file.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("BEGIN IMMEDIATE")
            db.execute(_TABLE)
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {SCHEMA}")
            db.execute("COMMIT")

    def migrate(self) -> None:
        """Bring an older index to this schema, all steps or none.

        Raises:
            UserError: there is no way from that version.
        """
        with self._connected() as db:
            db.execute("BEGIN IMMEDIATE")
            schema = db.execute("PRAGMA user_version").fetchone()[0]
            for step in range(schema, SCHEMA):
                if step not in MIGRATIONS:
                    raise UserError(
                        f"{self.path.parent} has store schema {schema}, which this iclens cannot bring to {SCHEMA}:"
                        " export it with the version that wrote it."
                    )
                MIGRATIONS[step](db, self.path.parent)
            db.execute(f"PRAGMA user_version = {SCHEMA}")
            db.execute("COMMIT")

    def keys(self) -> set[str]:
        """The keys of all rows."""
        with self._connected() as db:
            keys = {key for (key,) in db.execute("SELECT key FROM runs")}
        if not all(isinstance(key, str) for key in keys):
            raise IndexDamaged("a key is not a text")
        return keys

    def has(self, key: str) -> bool:
        """Whether there is a row of that key."""
        with self._connected() as db:
            return db.execute("SELECT 1 FROM runs WHERE key = ?", (key,)).fetchone() is not None

    def rows(self, *, frozen: bool = False) -> list[Row]:
        """All rows, in the order in which they were added.

        Args:
            frozen: nobody writes: read the file as it is, without the files beside it that SQLite would make.
        """
        with self._connected(_FROZEN if frozen else "rw") as db:
            found = db.execute(f"SELECT {_COLUMNS} FROM runs ORDER BY number").fetchall()
        return _rows([_unsealed(row) for row in found])

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
                f"INSERT OR IGNORE INTO runs (number, {_COLUMNS}) VALUES (max(?, {_NEXT}), ?, ?, ?, ?)",
                [
                    (number, key, config, result, _sealed(key, config, result, digest))
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
