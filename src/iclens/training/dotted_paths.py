"""Dotted paths into nested tables: `training.learning_rate` names one value of a configuration."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from iclens.errors import UserError

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def split_path(path: str) -> tuple[str, ...]:
    """Return the keys of a path; a key with other characters than letters, digits, `_` and `-` is quoted, as in TOML.

    >>> split_path('training.rates."layers.0"')
    ('training', 'rates', 'layers.0')

    Raises:
        UserError: the text is not a dotted path.
    """
    keys: list[str] = []
    try:
        if not path.strip() or set(path) & set("\n\r=#"):
            raise ValueError
        table: Any = tomllib.loads(f"{path} = 0")
        while isinstance(table, dict):
            ((key, table),) = table.items()
            keys.append(key)
    except ValueError:
        raise UserError(f"{path!r} is not a dotted path such as training.learning_rate.") from None
    return tuple(keys)


def join_path(keys: tuple[str, ...]) -> str:
    """Return the path of these keys; the inverse of `split_path`."""
    return ".".join(map(_written, keys))


@lru_cache(4096)
def _written(key: str) -> str:
    return key if _BARE.fullmatch(key) else quoted(key)


def quoted(text: str) -> str:
    """Return a TOML string."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    shown = (escapes.get(c) or (f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c) for c in text)
    return f'"{"".join(shown)}"'


def assign(data: dict[str, Any], path: str, value: Any) -> None:
    """Set one value of nested tables in place; tables on the way are made.

    Raises:
        UserError: the path leads through something that is not a table.
    """
    *tables, last = split_path(path)
    for depth, key in enumerate(tables):
        if data.get(key) is None:
            data[key] = {}
        if not isinstance(data[key], dict):
            way = join_path(tuple(tables[: depth + 1]))
            raise UserError(f"{path} cannot be set: {way} is {data[key]!r}, not a table.")
        data = data[key]
    data[last] = value


def remove(data: dict[str, Any], path: str) -> None:
    """Take one value out of nested tables in place; nothing happens where there is none."""
    *tables, last = split_path(path)
    for key in tables:
        if not isinstance(data.get(key), dict):
            return
        data = data[key]
    data.pop(last, None)


def flatten(data: Mapping[str, Any], *, into: dict[str, Any] | None = None) -> dict[str, Any]:
    """Every value of nested tables by its path, in order; an empty table counts as a value.

    Args:
        data: the tables.
        into: where the values go; a new dictionary when None.

    >>> flatten({"seed": 1, "training": {"steps": 10, "rates": {}}})
    {'seed': 1, 'training.steps': 10, 'training.rates': {}}
    """
    flat = {} if into is None else into
    _flatten("", data, flat)
    return flat


_PLAIN = frozenset((str, int, float, bool, type(None), list, tuple))


def _flatten(way: str, table: Mapping[str, Any], flat: dict[str, Any]) -> None:
    paths = _paths(way, tuple(table))
    # Ten thousand configurations are flattened to list a store: what can be said of a whole table is said at once.
    if _PLAIN.issuperset(map(type, table.values())):
        flat.update(zip(paths, table.values(), strict=True))
        return
    for path, value in zip(paths, table.values(), strict=True):
        if type(value) not in _PLAIN and value and isinstance(value, Mapping):
            _flatten(f"{path}.", value, flat)
        else:
            flat[path] = value


@lru_cache(maxsize=1024)
def _paths(way: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(way + _written(key) for key in keys)
