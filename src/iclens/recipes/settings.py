"""Settings of a recipe, each marked as stated by the paper or chosen by us, and how a user overrides them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from iclens.errors import UserError, did_you_mean
from iclens.training.config_file import parse_value
from iclens.training.typed_values import converted, hints_of

S = TypeVar("S")


def stated(value: Any, source: str = "") -> Any:
    """A field whose value the paper states; a preset that changes it is shown as chosen, with the paper's beside it.

    Args:
        value: the paper's value, the field's default.
        source: where it is stated, e.g. `"Fig. 3"`.
    """
    return field(default=value, metadata={"origin": "stated", "note": source})


def chosen(value: Any, why: str = "") -> Any:
    """A field that the paper leaves open, or whose value we could not read there.

    Args:
        value: our value, the field's default.
        why: the reason, if there is one to tell.
    """
    return field(default=value, metadata={"origin": "chosen", "note": why})


def option(value: Any, why: str = "") -> Any:
    """A field that no preset sets; it is recorded, and shown on pages, only where a user has set it.

    Args:
        value: our value, the field's default.
        why: what it is for.
    """
    return field(default=value, metadata={"origin": "chosen", "note": why, "option": True})


def place(value: Any, why: str = "") -> Any:
    """A field that says where something lies; finished work is taken wherever that is, if `Recipe.inputs` is the same.

    Args:
        value: our value, the field's default.
        why: the reason, if there is one to tell.
    """
    return field(default=value, metadata={"origin": "chosen", "note": why, "place": True})


def require_counts(settings: Any, *names: str) -> None:
    """Refuse settings whose counts are not at least 1.

    Raises:
        UserError: the first that is less.
    """
    for name in names:
        value = getattr(settings, name)
        if value < 1:
            raise UserError(f"{name}={value} must be at least 1.")


@dataclass(frozen=True)
class SettingRow:
    """One line of the table of settings.

    Attributes:
        name: the field.
        value: what the preset has.
        origin: `"stated"` by the paper or `"chosen"` by us.
        note: where it is stated, why it was chosen, or the paper's value when the preset has another.
    """

    name: str
    value: Any
    origin: str
    note: str


def setting_rows(settings: Any) -> tuple[SettingRow, ...]:
    """Every field of a settings dataclass with its origin; an `option` only where it is set.

    Raises:
        TypeError: it is not a dataclass of fields made by `stated`, `chosen`, `option` and `place`.
    """
    if not is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(f"{settings!r} is not an instance of a dataclass")
    rows = []
    for entry in fields(settings):
        if "origin" not in entry.metadata or entry.default is MISSING:
            raise TypeError(
                f"{type(settings).__name__}.{entry.name} must be made by stated(...), chosen(...), option(...) "
                "or place(...)"
            )
        if _is_unset(settings, entry):
            continue
        value, origin, note = getattr(settings, entry.name), entry.metadata["origin"], entry.metadata["note"]
        if origin == "stated" and value != entry.default:
            where = f" ({note})" if note else ""
            origin, note = "chosen", f"the paper: {_plain(entry.default)}{where}"
        rows.append(SettingRow(entry.name, value, origin, note))
    return tuple(rows)


def recorded(settings: Any) -> dict[str, Any]:
    """The values of all fields, without the options that nobody has set."""
    return {entry.name: getattr(settings, entry.name) for entry in fields(settings) if not _is_unset(settings, entry)}


def without_places(settings: Any) -> dict[str, Any]:
    """What is recorded, but for the fields made by `place`."""
    places = {entry.name for entry in fields(settings) if entry.metadata.get("place")}
    return {name: value for name, value in recorded(settings).items() if name not in places}


def overridden(settings: S, assignments: Iterable[str]) -> S:
    """The settings with values that a user has set.

    Args:
        settings: of a preset.
        assignments: each `name=value`, the value written as in TOML; a word that is not TOML stands for itself, and a
            single value serves as a list of one.

    Raises:
        UserError: an unknown name, a value of another type, or one that the settings themselves refuse.
    """
    known = hints_of(type(settings))
    values = {}
    for text in assignments:
        name, _, value = text.partition("=")
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"there is no setting {name!r}.{hint} Settings: {', '.join(known)}.")
        if name in values:
            raise UserError(f"the setting {name!r} is given twice.")
        found = parse_value(value)
        if isinstance(getattr(settings, name), tuple) and not isinstance(found, list):
            found = [found]
        values[name] = converted(name, known[name], found)
    return replace(settings, **values)  # type: ignore[type-var]


def _is_unset(settings: Any, entry: Any) -> bool:
    return bool(entry.metadata.get("option")) and getattr(settings, entry.name) == entry.default


def _plain(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, tuple) else str(value)
