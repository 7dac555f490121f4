"""Values of a configuration as annotations want them."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar

from iclens.errors import UserError, did_you_mean


class _NotFinite(UserError):
    """The type is right, the number is not."""


def hints_of(entry: Any) -> dict[str, Any]:
    """Return the annotations of a class's fields or of a function's parameters, resolved.

    Raises:
        NameError: annotations that only a type checker can read.
    """
    return _hints_of(entry)


_hints_of = cache(typing.get_type_hints)


def check_types(where: str, settings: Any) -> None:
    """Hold every field of a dataclass against its annotation.

    Args:
        where: the table that holds the fields.
        settings: the dataclass.

    Raises:
        UserError: as `converted`.
    """
    for name, annotation in hints_of(type(settings)).items():
        converted(f"{where}.{name}", annotation, getattr(settings, name))


def converted(where: str, annotation: Any, value: Any) -> Any:
    """`value` as `annotation` wants it: whole numbers serve as floats and lists as tuples; nothing else is converted.

    An annotation that is not a type, such as a type variable, accepts everything.

    Raises:
        UserError: a value of another type, or a number that is not finite.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(value, float):
        _finite(where, value)
    if annotation is Any or isinstance(annotation, TypeVar):
        return value
    if origin is Literal:
        if value not in arguments:
            hint = did_you_mean(value, arguments)
            raise UserError(f"{where}={value!r} is not known.{hint} Known: {', '.join(map(str, arguments))}.")
        return value
    if origin in (typing.Union, types.UnionType):
        return _as_one_of(where, arguments, value)
    if annotation is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(where, value)
    if isinstance(value, bool) and annotation is not bool:
        raise _other_type(where, annotation, value)
    if origin is tuple and isinstance(value, list | tuple):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        if len(arguments) != len(value):
            raise UserError(f"{where}={value!r} must have {len(arguments)} entries.")
        return tuple(converted(where, argument, item) for argument, item in zip(arguments, value, strict=True))
    wanted: Any = origin or annotation
    if not isinstance(wanted, type):
        return value
    if not isinstance(value, wanted):
        raise _other_type(where, annotation, value)
    if isinstance(value, Mapping) and issubclass(wanted, Mapping):
        inner = arguments[1] if arguments else Any
        return {key: converted(f"{where}.{key}", inner, item) for key, item in value.items()}
    if isinstance(value, Sequence) and arguments and issubclass(wanted, Sequence):
        if isinstance(value, str):
            raise _other_type(where, annotation, value)
        return [converted(where, arguments[0], item) for item in value]
    return value


def _as_one_of(where: str, annotations: tuple[Any, ...], value: Any) -> Any:
    problems = []
    for annotation in annotations:
        try:
            return converted(where, annotation, value)
        except UserError as error:
            problems.append(error)
    for problem in problems:
        if isinstance(problem, _NotFinite):
            raise problem
    # Of optional values and the like, the one type that can be written in a file has the better message.
    plain = [one for one, annotation in zip(problems, annotations, strict=True) if _is_written(annotation)]
    if len(plain) == 1:
        raise plain[0]
    wanted = [_spelled(annotation) for annotation in annotations if _is_written(annotation)]
    raise UserError(f"{where}={value!r} must be of type {' or '.join(wanted)}.")


def _is_written(annotation: Any) -> bool:
    """Return whether a configuration file can hold a value of this type."""
    wanted = typing.get_origin(annotation) or annotation
    return wanted is Literal or wanted in (int, float, str, bool, list, tuple, dict, Mapping, Sequence)


def _finite(where: str, value: float | int) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _NotFinite(f"{where}={number} must be finite.")
    return number


def _other_type(where: str, annotation: Any, value: Any) -> UserError:
    return UserError(f"{where}={value!r} must be of type {_spelled(annotation)}.")


def _spelled(annotation: Any) -> str:
    """Return a type in the words of a configuration file."""
    wanted = typing.get_origin(annotation) or annotation
    if wanted in (Mapping, dict):
        return "table"
    if wanted in (list, tuple, Sequence):
        return "list"
    return getattr(wanted, "__name__", str(wanted))
