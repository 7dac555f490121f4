"""A tidy table: one measurement a row, on plain Python and NumPy."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Cell = str | bool | int | float | None
Row = Mapping[str, Cell]


class Table:
    """Rows with named cells: text, truth values, integers, floats, or None where a row has no such cell.

    Rows may differ in their cells, so that curves and summaries can share one table. Numbers of NumPy and of tensors
    with one element become Python's. Immutable.

    Args:
        rows: mappings from column names to cells; columns appear in the order in which they are first met.

    Raises:
        TypeError: a cell that is none of the above.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._rows = tuple({name: _cell(name, value) for name, value in row.items()} for row in rows)
        self.names: tuple[str, ...] = tuple(dict.fromkeys(name for row in self._rows for name in row))

    @classmethod
    def from_columns(cls, columns: Mapping[str, Sequence[Any]]) -> Table:
        """Return the table of columns of equal length.

        Raises:
            ValueError: columns of different lengths.
        """
        return cls(dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Cell]]:
        return (dict(row) for row in self._rows)

    def __add__(self, other: Table) -> Table:
        return Table((*self._rows, *other._rows))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.to_columns() == other.to_columns()

    __hash__ = None  # type: ignore[assignment]

    def cells(self, name: str) -> list[Cell]:
        """One column as it is, None where a row has no such cell.

        Raises:
            KeyError: no row has it.
        """
        if name not in self.names:
            raise KeyError(f"no column {name!r}; there are {', '.join(self.names)}")
        return [row.get(name) for row in self._rows]

    def column(self, name: str) -> np.ndarray:
        """Return a numeric column as float64, NaN where a row has no such cell.

        Raises:
            KeyError: no row has it.
            ValueError: it holds text.
        """
        return np.array([math.nan if cell is None else float(cell) for cell in self.cells(name)], dtype=np.float64)

    def unique(self, name: str) -> list[Cell]:
        """Return the different cells of a column in the order of their first row, without None."""
        return list(dict.fromkeys(cell for cell in self.cells(name) if cell is not None))

    def numbers(self, name: str) -> list[float]:
        """Return the different numbers of a numeric column, ascending, without those that are missing or NaN."""
        found = self.column(name)
        return np.unique(found[~np.isnan(found)]).tolist()

    def where(self, **cells: Cell) -> Table:
        """Return the rows whose named cells have these values; `name=None` asks for rows without that cell."""
        return Table(row for row in self._rows if all(row.get(name) == value for name, value in cells.items()))

    def only(self, name: str) -> Table:
        """Return the rows that have a cell in this column."""
        return Table(row for row in self._rows if row.get(name) is not None)

    def sorted_by(self, *names: str) -> Table:
        """Return the rows in the order of these columns, each of which every row must have."""
        return Table(sorted(self._rows, key=lambda row: tuple(row[name] for name in names)))

    def with_cells(self, **cells: Cell) -> Table:
        """Every row with these cells in front.

        Raises:
            ValueError: a row has one of them already.
        """
        twice = [name for name in cells if name in self.names]
        if twice:
            raise ValueError(f"the rows already have a column {twice[0]!r}")
        return Table({**cells, **row} for row in self._rows)

    def to_columns(self) -> dict[str, list[Cell]]:
        """Columns of equal length, for JSON: None where a cell is missing, "nan", "inf", "-inf" as text."""
        return {name: [_to_json(row.get(name)) for row in self._rows] for name in self.names}

    @classmethod
    def from_json_columns(cls, columns: Mapping[str, Sequence[Cell]]) -> Table:
        """Return the inverse of `to_columns`."""
        full = cls.from_columns({name: [_from_json(cell) for cell in cells] for name, cells in columns.items()})
        return cls({name: cell for name, cell in row.items() if cell is not None} for row in full)

    def to_csv(self) -> str:
        """Comma-separated values with a line of names; a missing cell is empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        return text.getvalue()


_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _cell(name: str, value: Any) -> Cell:
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"column {name!r}: {type(value).__name__} is not text, a truth value or a number")


def _to_json(cell: Cell) -> Cell:
    # JSON has no words for them; a text column never holds just these.
    return str(cell) if isinstance(cell, float) and not math.isfinite(cell) else cell


def _from_json(cell: Cell) -> Cell:
    return _WORDS.get(cell, cell) if isinstance(cell, str) else cell
