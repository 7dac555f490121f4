"""A gallery folder as the page shows it: recipes with their claims, verdicts and pictures. Only read."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.recipes.reproduction import TABLE
from iclens.report.gallery import COUNTED, MARKS, RECORD, TRUSTS
from iclens.work.progress import duration

PICTURES = ("figure.svg", "figure-dark.svg")
_VERDICTS = "verdicts.json"
_MOST_BYTES = 20_000_000
_FACTS = ("title", "reference", "preset", "command", "finished", "not_run")
_CLAIM = ("claim", "source", "outcome", "condition", "numbers", "test", "untested")


def gallery_view(folder: Path) -> dict[str, Any]:
    """What `iclens reproduce` left in a folder, recipe by recipe.

    Raises:
        UserError: there is no such folder, or no recipe in it.
    """
    found = [path.name for path in _folders(folder) if (path / _VERDICTS).is_file()]
    if not found:
        raise UserError(
            f"there is no gallery in {folder}: `iclens reproduce --all --out {folder}` makes one; name another with "
            "--gallery."
        )
    return {"folder": str(folder), "counted": COUNTED, "recipes": [_recipe(folder, name) for name in found]}


def picture(folder: Path, name: str, file: str) -> bytes | None:
    """The picture of a recipe, or None where there is none; nothing outside the folder is read."""
    if file not in PICTURES or name not in {path.name for path in _folders(folder)}:
        return None
    path = _inside(folder, name, file)
    return None if path is None else path.read_bytes()


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _inside(folder: Path, name: str, file: str) -> Path | None:
    """The file of a recipe, unless a link leads out of the gallery."""
    path = (folder / name / file).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file() or path.stat().st_size > _MOST_BYTES:
        return None
    return path


def _recipe(folder: Path, name: str) -> dict[str, Any]:
    try:
        verdicts = _read(folder, name, _VERDICTS)
        record = _read(folder, name, RECORD if (folder / name / RECORD).is_file() else TABLE)
        seconds = record.get("seconds")
        return {
            "id": name,
            **{key: str(record.get(key) or "") for key in _FACTS},
            "duration": duration(seconds) if isinstance(seconds, int | float) else "",
            "pictures": [file for file in PICTURES if _inside(folder, name, file) is not None],
            "verdicts": [_verdict(one) for one in verdicts],
            "problem": None,
        }
    # What others wrote can also nest too deep, or hold a number that no float holds.
    except (OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        return {"id": name, "verdicts": [], "pictures": [], "problem": f"{name} cannot be read: {error}"}


def _verdict(one: dict[str, Any]) -> dict[str, str]:
    sign, style = MARKS[one["outcome"]]
    said = {key: str(one.get(key) or "") for key in _CLAIM}
    return {**said, "sign": sign, "style": style, "trust": TRUSTS.get(one.get("trust", ""), "")}


def _read(folder: Path, name: str, file: str) -> Any:
    path = _inside(folder, name, file)
    if path is None:
        raise ValueError(f"{file} is missing, too large, or a link that leads out of the gallery")
    state = path.stat()
    return _parsed(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=256)
def _parsed(path: Path, modified: int, size: int) -> Any:
    document = json.loads(path.read_text(encoding="utf-8"))
    # The rows of a table are not shown here, and may be many.
    return (
        {key: value for key, value in document.items() if key != "columns"} if isinstance(document, dict) else document
    )
