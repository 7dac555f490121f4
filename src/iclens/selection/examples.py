"""Examples of a task: pairs of input and output, from files, lists and prompts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.lens.prompt.documents import contents, parse
from iclens.selection.chats import one_turn

_LINE = '{"input": "...", "output": "..."}'
_KEYS = ("input", "output", "candidates")


@dataclass(frozen=True)
class Example:
    """A pair of input and output.

    Attributes:
        input: what is asked.
        output: the right answer; None where it is not known.
        candidates: the answers among which the model chooses here; empty where those of the task hold, or any text.
        is_turn: whether it was given as a chat: a user's question and the assistant's reply.
        system: the system message of that chat, or None.
    """

    input: str
    output: str | None = None
    candidates: tuple[str, ...] = ()
    is_turn: bool = False
    system: str | None = None


ExamplesLike = str | Path | Iterable[Any]
"""A file, or a list of `Example`s, of pairs, or of objects `{"input", "output", "candidates"}` or `{"messages"}`."""


def read_examples(given: ExamplesLike, what: str = "the examples") -> tuple[Example, ...]:
    """Read examples from a `.jsonl`, `.json` or `.csv` file, or from a list.

    Args:
        given: the file or the list.
        what: what they are called in messages, where they come from no file.

    Raises:
        UserError: the file cannot be read, an example is none, or an input occurs twice; the message names the place.
    """
    where = str(given) if isinstance(given, str | Path) else what
    rows = _rows(Path(given)) if isinstance(given, str | Path) else [(f"item {i}", row) for i, row in enumerate(given)]
    if not rows:
        raise UserError(f"{where}: no example is there. Write e.g. {_LINE}.")
    try:
        found = [_example(place, row) for place, row in rows]
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    first: dict[str, str] = {}
    for (place, _), one in zip(rows, found, strict=True):
        other = first.setdefault(" ".join(one.input.split()), place)
        if other != place:
            raise UserError(f"{where}: {place} has the same input as {other}: keep one of them.")
    return tuple(found)


def _rows(path: Path) -> list[tuple[str, Any]]:
    """Return the objects of a file, each with its place."""
    raw = contents(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: this is not UTF-8. Save the file as UTF-8.") from None
    try:
        match path.suffix.lower():
            case ".jsonl":
                lines = [(f"line {i}", line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
                return [(place, parse(line, place, _LINE)) for place, line in lines]
            case ".json":
                found = parse(text, "", f"[{_LINE}]")
                if not isinstance(found, list):
                    raise UserError(f"the file holds no list. Write e.g. [{_LINE}].")
                return [(f"item {i}", row) for i, row in enumerate(found)]
            case ".csv":
                table = csv.DictReader(io.StringIO(text, newline=""))
                if "input" not in (table.fieldnames or ()):
                    raise UserError('the first line names no column "input": write input,output.')
                return [(f"row {i}", _filled(row)) for i, row in enumerate(table, start=1)]
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as a .csv file: {error}.") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    raise UserError(f"{path}: examples are a .jsonl, .json or .csv file of {_LINE}.")


def _filled(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the cells of a row that are not empty; a column "candidates" holds them between bars."""
    cells = {key: value for key, value in row.items() if key in _KEYS and value}
    return cells | ({"candidates": cells["candidates"].split("|")} if "candidates" in cells else {})


def _example(place: str, row: Any) -> Example:
    if isinstance(row, Example):
        read = row
    elif isinstance(row, Mapping):
        system: str | None = None
        if is_turn := "messages" in row:
            system, question, reply = one_turn(place, row)
            rest = {key: value for key, value in row.items() if key != "messages"}
            row = {"input": question, "output": reply, **rest}
        unknown = sorted(set(row) - set(_KEYS) - {"id"})
        if "input" not in row or unknown:
            said = f'the key "{unknown[0]}" is not known' if unknown else 'there is no "input"'
            raise UserError(f"{place}: {said}. Write e.g. {_LINE}.")
        candidates = row.get("candidates") or ()
        if isinstance(candidates, str) or not isinstance(candidates, Iterable):
            raise UserError(f'{place}: "candidates" is no list. Write e.g. "candidates": ["yes", "no"].')
        read = Example(row["input"], row.get("output"), tuple(candidates), is_turn, system)
    elif isinstance(row, Sequence) and not isinstance(row, str) and len(row) == 2:
        read = Example(row[0], row[1])
    else:
        raise UserError(f"{place}: {row!r} is no pair of input and output. Write e.g. {_LINE}.")
    for name, value in (("input", read.input), ("output", read.output), *(("candidate", c) for c in read.candidates)):
        if value is None and name == "output":
            continue
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{place}: the {name} is {value!r}: give a text with a visible character.")
    return read
