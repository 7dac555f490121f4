"""Reading the parts of a question from JSON: each is of its kind, or one sentence says what would be right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from iclens.errors import UserError, did_you_mean

_MOST_SHOWN = 40


def known(document: Any, names: Iterable[str], right: str) -> Mapping[str, Any]:
    """The question, which may hold these keys only; `right` tells what one looks like.

    Raises:
        UserError: it is no object, or it has another key.
    """
    if not isinstance(document, Mapping):
        raise UserError(f"the question is no JSON object: send {right}.")
    names = tuple(names)
    for key in document:
        if key not in names:
            raise UserError(f"the key {shown(key)} is not known.{did_you_mean(key, names)} Known: {', '.join(names)}.")
    return document


def text(document: Mapping[str, Any], name: str) -> str | None:
    """A string, or None where there is none.

    Raises:
        UserError: it is of another kind.
    """
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{name!r} must be a string.")
    return value


def texts(document: Mapping[str, Any], name: str) -> list[str]:
    """A list of strings, empty where there is none.

    Raises:
        UserError: it is of another kind.
    """
    value = document.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{name!r} must be a list of strings.")
    return value


def whole(document: Mapping[str, Any], name: str, least: int = 0, most: int | None = None) -> int | None:
    """A whole number in a range, or None where there is none.

    Raises:
        UserError: it is of another kind, or out of its range.
    """
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        wanted = f"of {least} or more" if most is None else f"from {least} to {most}"
        raise UserError(f"{name} is {shown(value)}: it must be a whole number {wanted}.")
    return value


def shown(value: Any) -> str:
    """A value as a sentence quotes it: not all of it when it is long."""
    quoted = repr(value)
    return quoted if len(quoted) <= _MOST_SHOWN else quoted[: _MOST_SHOWN - 1] + "…"
