"""Settings of a recipe, each marked as stated by the paper or chosen by us."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any


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
    """Every field of a settings dataclass with its origin.

    Raises:
        TypeError: it is not a dataclass of fields made by `stated` and `chosen`.
    """
    if not is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(f"{settings!r} is not an instance of a dataclass")
    rows = []
    for entry in fields(settings):
        if "origin" not in entry.metadata or entry.default is MISSING:
            raise TypeError(f"{type(settings).__name__}.{entry.name} must be made by stated(...) or chosen(...)")
        value, origin, note = getattr(settings, entry.name), entry.metadata["origin"], entry.metadata["note"]
        if origin == "stated" and value != entry.default:
            where = f" ({note})" if note else ""
            origin, note = "chosen", f"the paper: {_plain(entry.default)}{where}"
        rows.append(SettingRow(entry.name, value, origin, note))
    return tuple(rows)


def _plain(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, tuple) else str(value)
