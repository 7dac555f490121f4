"""Runs as a flat table: columns with dotted names, filters over them, and what differs between runs."""

from __future__ import annotations

import difflib
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from typing import Any

from iclens.errors import UserError
from iclens.sweeps.index_rows import Row, nothing_collected
from iclens.training.config_file import parse_value
from iclens.training.dotted_paths import flatten

_CONDITION = re.compile(r"\s*(?P<column>.+?)\s*(?P<sign><=|>=|!=|=|<|>)\s*(?P<value>.*?)\s*")
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def record(row: Row) -> dict[str, Any]:
    """Return a run as one flat row.

    `key`, `status`, `seconds`, `last_finite_step`; the paths of its configuration, e.g. `training.steps`; and the last
    value of each metric, e.g. `final.loss`.
    """
    result = row.result
    flat: dict[str, Any] = {
        "key": row.key,
        "status": result.status,
        "seconds": result.seconds,
        "last_finite_step": result.last_finite_step,
    }
    flatten(row.config, into=flat)
    for name, value in result.final.items():
        flat[f"final.{name}"] = value
    return flat


def records_of(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return all these runs as flat rows, see `record`."""
    with nothing_collected():
        return [record(row) for row in rows]


def columns_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of all columns, in order of their first occurrence."""
    names: dict[str, None] = {}
    for one in records:
        if not one.keys() <= names.keys():
            names.update(dict.fromkeys(one))
    return list(names)


def differing(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns in which the rows differ from each other, in order; one that a row lacks differs."""
    first = records[0] if records else {}
    names, values = tuple(first), tuple(first.values())
    found: set[str] = set()
    for one in records[1:]:
        if tuple(one) == names:
            # Nearly always: rows of one shape are compared all at once.
            suspects: Iterable[str] = compress(names, map(operator.ne, one.values(), values))
        else:
            found |= one.keys() ^ first.keys()
            suspects = one
        for name in suspects:
            # NaN differs from itself, but not in a table.
            value, other = one[name], first.get(name)
            if name not in found and value != other and not (value != value and other != other):
                found.add(name)
    return [name for name in columns_of(records) if name in found]


def is_setting(name: str) -> bool:
    """Return whether a column is a setting, and not how the run ended."""
    return name not in ("key", "status", "seconds", "last_finite_step") and not name.startswith("final.")


def informative(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of a short list: how each run ended, the settings in which they differ, and the first six metrics."""
    settings = [name for name in differing(records) if is_setting(name)]
    metrics = [name for name in columns_of(records) if name.startswith("final.")]
    return ["key", "status", "seconds", *settings, *metrics[:6]]


def where(records: Sequence[dict[str, Any]], conditions: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rows that meet every condition.

    Args:
        records: flat rows.
        conditions: `column=value`, also with `!=`, `<`, `<=`, `>`, `>=`. Numbers are compared as numbers; `none` is
            no value. A row without the column meets `!=` alone.

    Raises:
        UserError: not a condition, or a column that no row has.
    """
    chosen = list(records)
    for condition in conditions:
        match = _CONDITION.fullmatch(condition)
        if match is None:
            raise UserError(f"{condition!r} is not a condition: write column=value, e.g. training.steps=500 or seed<4.")
        name, sign, text = match["column"], match["sign"], match["value"]
        if records:
            known_column(records, name)
        value = parse_value(text)
        chosen = [one for one in chosen if _meets(one, name, sign, value)]
    return chosen


def known_column(records: Sequence[Mapping[str, Any]], name: str) -> None:
    """Refuse a column that no row has.

    Raises:
        UserError: with the nearest known one.
    """
    known = columns_of(records)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1) or [one for one in known if one.endswith(f".{name}")][:1]
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(f"no run has a column {name!r}.{hint}")


def ordered(records: Sequence[dict[str, Any]], column: str, *, reverse: bool = False) -> list[dict[str, Any]]:
    """Return the rows sorted by a column; those without it, or with NaN there, come last either way.

    Raises:
        UserError: no row has that column.
    """
    if not records:
        return []
    known_column(records, column)

    def absent(one: Mapping[str, Any]) -> bool:
        value = one.get(column)
        return value is None or (isinstance(value, float) and math.isnan(value))

    def rank(one: Mapping[str, Any]) -> tuple[bool, Any]:
        value = one[column]
        number = isinstance(value, int | float)
        return (not number, value if number else str(value))

    present = sorted((one for one in records if not absent(one)), key=rank, reverse=reverse)
    return present + [one for one in records if absent(one)]


def cell(value: Any) -> str:
    """Return a value as tables show it; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | Mapping) else str(value)


def _meets(one: Mapping[str, Any], name: str, sign: str, value: Any) -> bool:
    if sign in ("=", "!="):
        present = name in one
        own = one.get(name)
        equal = present and (own is None if value == "none" and own is None else _same(own, value))
        return equal if sign == "=" else not equal
    own = one.get(name)
    alike = all(isinstance(item, int | float) for item in (own, value)) or all(
        isinstance(item, str) for item in (own, value)
    )
    return alike and _ORDERS[sign](own, value)


def _same(own: Any, value: Any) -> bool:
    if isinstance(own, bool) or isinstance(value, bool):
        return own is value
    if isinstance(own, str):
        return own == value or own == str(value)
    return own == value
