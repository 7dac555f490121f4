"""The rows of a store's index: a run as texts with a seal, and as what they say."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from iclens.sweeps.result import Result

COLUMNS = "key, config, result, digest"

TABLE = """CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    config TEXT NOT NULL,
    result TEXT NOT NULL,
    digest TEXT NOT NULL
)"""

_SEAL = ":"
"""Stands between the digest of a run and the seal of its row, which are one cell."""


class IndexDamaged(Exception):
    """The index is lost or not readable; the runs are not touched by that."""


def sealed_digest(key: str, config: str, result: str, digest: str) -> str:
    """Return the digest with a checksum of the row: SQLite has none, and would give a flipped digit as it is."""
    content = "\0".join((key, config, result, digest)).encode("utf-8", "surrogatepass")
    return f"{digest}{_SEAL}{hashlib.sha256(content).hexdigest()}"


def unsealed(row: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
    """Return a row as it lies in the table, its digest without the seal.

    Raises:
        IndexDamaged: the seal is not that of the row.
    """
    key, config, result, cell = row
    if not all(isinstance(text, str) for text in row) or cell != sealed_digest(
        key, config, result, digest := cell.partition(_SEAL)[0]
    ):
        raise IndexDamaged("a row is not what was written")
    return key, config, result, digest


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
        """Return a row from its texts: configuration and result are JSON.

        Raises:
            IndexDamaged: they are not what the store writes.
        """
        return rows_of([(key, config, result, digest)])[0]


def rows_of(found: list[tuple[Any, Any, Any, Any]]) -> list[Row]:
    """Rows from their texts; the JSON of all of them is read at once, which halves the time.

    Raises:
        IndexDamaged: they are not what the store writes.
    """
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
