"""A store's runs, or all their metrics, as one CSV, Parquet or JSON file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from iclens.errors import UserError
from iclens.plain_data import finite
from iclens.sweeps.run_folder import parquet_bytes
from iclens.sweeps.selection import columns_of, record
from iclens.sweeps.store import Store
from iclens.training.metric import Metric

Format = Literal["csv", "parquet", "json"]
FORMATS: tuple[Format, ...] = ("csv", "parquet", "json")


def export_bytes(
    store: Store, format: Format, *, what: Literal["runs", "metrics"] = "runs", keys: Sequence[str] | None = None
) -> bytes:
    """Return a table as a file's content.

    Args:
        store: where the runs are.
        format: `csv` (UTF-8, empty for no value), `parquet`, or `json` (a list of rows; null where a number is not
            finite).
        what: `runs`, one row a run with the columns of `iclens.sweeps.selection.record`; or `metrics`, one row a value:
            key, step, name, prefix, value.
        keys: only these runs, in this order; all by default.

    Raises:
        UserError: an unknown key, or a damaged run.
    """
    rows = {row.key: row for row in store.rows()}
    for key in keys or ():
        if key not in rows:
            raise UserError(f"no run {key!r} in {store.path}.")
    chosen = list(rows) if keys is None else list(keys)
    if what == "runs":
        records = [record(rows[key]) for key in chosen]
        names = columns_of(records)
    else:
        records = [{"key": key, **metric._asdict()} for key in chosen for metric in store.load(key).metrics()]
        names = ["key", *Metric._fields]
    if format == "json":
        return plain_json(records).encode()
    if format == "csv":
        return _csv(records, names)
    return _parquet(records, names, what)


def format_of(path: Path) -> Format:
    """Return the format that a file's ending asks for.

    Raises:
        UserError: another ending than `.csv`, `.parquet` or `.json`.
    """
    for known in FORMATS:
        if path.suffix.lower() == f".{known}":
            return known
    raise UserError(f"{path}: name a file that ends in .csv, .parquet or .json.")


def plain_json(value: Any) -> str:
    """JSON text in which null stands for numbers that are not finite.

    Args:
        value: plain nested values.
    """
    return json.dumps(finite(value), ensure_ascii=False, indent=1, allow_nan=False)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | Mapping | bool) else value


def _csv(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for one in records:
        writer.writerow([_cell(one.get(name)) for name in names])
    return text.getvalue().encode()


def _parquet(records: Sequence[Mapping[str, Any]], names: Sequence[str], what: str) -> bytes:
    import pyarrow

    columns = {name: _column([one.get(name) for one in records]) for name in names}
    if what == "metrics":
        types = (pyarrow.string(), pyarrow.int64(), pyarrow.string(), pyarrow.int64(), pyarrow.float64())
        columns = {
            name: pyarrow.array([one[name] for one in records], type=kind)
            for name, kind in zip(names, types, strict=True)
        }
    return parquet_bytes(pyarrow.table(columns))


def _column(values: list[Any]) -> Any:
    """Numbers stay numbers; a column of several kinds, or of lists, becomes text."""
    import pyarrow

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and float in kinds:
        return pyarrow.array([None if value is None else float(value) for value in values], type=pyarrow.float64())
    fits = all(abs(value) < 2**63 for value in values if type(value) is int)
    if len(kinds) == 1 and kinds <= {int, bool, str} and fits:
        return pyarrow.array(values)
    return pyarrow.array([None if value is None else str(_cell(value)) for value in values], type=pyarrow.string())
