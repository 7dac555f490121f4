"""Frozen records from plain data: what `dataclasses.asdict` and JSON made of them, back again."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")


def record_of(kind: type[Record], document: Mapping[str, Any]) -> Record:
    """Build a dataclass from a mapping of its fields; unknown entries are left out, tuples and records are rebuilt.

    Raises:
        KeyError: a field without a default is missing.
        TypeError, ValueError: a value that is not of its field's kind.
    """
    hints = get_type_hints(kind)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in document:
            given[field.name] = _value(hints[field.name], document[field.name])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise KeyError(field.name)
    return kind(**given)


def finite(value: Any) -> Any:
    """Give plain nested values with None in place of numbers that are not finite, which JSON has no words for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def _value(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None else _value(next(one for one in arguments if one is not type(None)), value)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise TypeError(f"{value!r} is no record")
        return record_of(hint, value)  # type: ignore[arg-type]
    if origin is tuple:
        return tuple(_value(arguments[0], entry) for entry in value)
    if origin is dict:
        return {key: _value(arguments[1], entry) for key, entry in value.items()}
    if hint is float and not isinstance(value, bool) and isinstance(value, int | float):
        return float(value)
    if isinstance(hint, type) and not isinstance(value, hint):
        raise TypeError(f"{value!r} is no {hint.__name__}")
    return value
