"""Configurations as files: TOML or JSON, with single values overridden; and the presets that ship with iclens."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from iclens.errors import UserError, did_you_mean
from iclens.training.dotted_paths import assign, join_path, quoted, remove

PRESETS = Path(__file__).parent / "presets"
"""The folder of the presets: one TOML file each."""


def read_config(source: str | Path, overrides: Sequence[str] = (), folder: Path = PRESETS) -> dict[str, Any]:
    """Plain nested values, for `RunConfig.from_dict` or `iclens.sweeps.grid.expand`.

    Args:
        source: a file (`.toml` or `.json`) or the name of a preset.
        overrides: `path=value` each, applied in order, e.g. `training.learning_rate=1e-3`. The value is read as TOML
            (numbers, true, false, quoted strings, lists, tables in braces) and where it is not TOML, as a string. An
            empty value takes the key away, so that its default holds.
        folder: where the presets are.

    Raises:
        UserError: no such file or preset, a file that is not TOML or JSON (with the line), a key given twice, a value
            that is neither a finite number, a string, a boolean, a list nor a table, an override without `=` or
            through something that is not a table.
    """
    path = _located(source, folder)
    data = _parsed(path)
    try:
        _check_plain((), data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"override {override!r} has no '=': write it as path=value, e.g. training.steps=500.")
        try:
            if text.strip():
                value = parse_value(text)
                _check_plain((key.strip(),), value)
                assign(data, key, value)
            else:
                remove(data, key)
        except UserError as error:
            raise UserError(f"override {override!r}: {error}") from None
    return data


def presets(folder: Path = PRESETS) -> list[str]:
    """List the names of the presets in a folder, sorted."""
    return sorted(file.stem for file in folder.glob("*.toml"))


def parse_value(text: str) -> Any:
    """Return a TOML value; text that is none stands for itself.

    >>> parse_value("1e-3"), parse_value("[1, 2]"), parse_value("sparse-linear")
    (0.001, [1, 2], 'sparse-linear')
    """
    text = text.strip()
    try:
        data = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    # A line break in the text could have smuggled in a second key.
    return data["value"] if list(data) == ["value"] else text


def toml_text(data: Mapping[str, Any]) -> str:
    """Return a configuration as a TOML file that `read_config` reads back; keys without a value (None) are left out.

    Args:
        data: plain nested values.
    """
    plain = {key: value for key, value in data.items() if value is not None}
    tables = {key: value for key, value in plain.items() if isinstance(value, Mapping)}
    lines = [f"{join_path((key,))} = {_toml(value)}" for key, value in plain.items() if key not in tables]
    for key, table in tables.items():
        lines += ["", f"[{join_path((key,))}]"] if lines else [f"[{join_path((key,))}]"]
        lines += [f"{join_path((name,))} = {_toml(value)}" for name, value in table.items() if value is not None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        inner = (f"{join_path((key,))} = {_toml(item)}" for key, item in value.items() if item is not None)
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)


def _located(source: str | Path, folder: Path) -> Path:
    path = Path(source)
    if path.suffix.lower() in {".toml", ".json"}:
        return path
    name, known = str(source), presets(folder)
    if name in known:
        return folder / f"{name}.toml"
    if path.exists():
        raise UserError(f"{path}: a configuration is a file that ends in .toml or .json.")
    hint = did_you_mean(name, known)
    raise UserError(f"there is no preset {name!r}.{hint} Presets: {', '.join(known)}; or give a .toml or .json file.")


def _parsed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from None
    try:
        if path.suffix.lower() == ".toml":
            return tomllib.loads(text)
        data = json.loads(text, object_pairs_hook=_once, parse_constant=_refused)
    except RecursionError:
        raise UserError(f"{path}: the tables are nested too deeply.") from None
    except ValueError as error:
        kind = path.suffix[1:].upper()
        # tomllib gives a line everywhere but here.
        reason = str(error).replace("at end of document", f"at line {len(text.splitlines())}, the last")
        raise UserError(f"{path} is not valid {kind}: {reason}.") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold a table of keys and values, not {type(data).__name__}.")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return data


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not a finite number")


def _check_plain(keys: tuple[str, ...], value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain((*keys, key), item)
    elif isinstance(value, list):
        for item in value:
            _check_plain(keys, item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{'.'.join(keys)}={value} must be finite.")
    elif not isinstance(value, bool | int | float | str | None):
        raise UserError(f"{'.'.join(keys)}={value} must be a number, a string, true, false, a list or a table.")
