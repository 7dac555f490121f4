"""Steps that bring the index of an older store to the present schema."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from iclens.sweeps.index_rows import COLUMNS, TABLE, sealed_digest


def _number_rows(db: sqlite3.Connection, _folder: Path) -> None:
    """From schema 1 to 2: the order of the rows, which only SQLite told, gets a column, and every row a seal."""
    db.execute("ALTER TABLE runs RENAME TO runs_1")
    db.execute(TABLE)
    db.create_function("sealed", 4, sealed_digest, deterministic=True)
    with_seals = "key, config, result, sealed(key, config, result, digest)"
    db.execute(f"INSERT INTO runs ({COLUMNS}) SELECT {with_seals} FROM runs_1 ORDER BY rowid")
    db.execute("DROP TABLE runs_1")


Migration = Callable[[sqlite3.Connection, Path], None]
"""A step to the next schema, of an index and the store's folder."""

MIGRATIONS: dict[int, Migration] = {1: _number_rows}
"""Steps from an older schema to the next, by the older one's number."""
