"""A file of documents: one a line, or a JSON list."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.lens.prompt.documents import contents, parse
from iclens.lens.prompt.retrieval import check_documents

_DOCUMENT = '{"id": "d1", "text": "..."}'


def read_documents(path: str | Path) -> list[dict[str, str]]:
    """Read documents in the order of the file: `.jsonl` holds one `{"id", "text"}` a line, `.json` a list of them.

    Without an id, a document is named by its number from 0.

    Raises:
        UserError: the file cannot be read or a document is none; the message names the line and the field.
    """
    path = Path(path)
    raw = contents(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = raw.count(b"\n", 0, error.start) + 1, raw[error.start]
        raise UserError(f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8. Save the file as UTF-8.") from None
    where: list[str] | None = None
    rows: Any
    try:
        if path.suffix.lower() == ".json":
            rows = parse(text, "", f"[{_DOCUMENT}]")
        elif path.suffix.lower() == ".jsonl":
            lines = [(f"line {i}", line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
            where = [place for place, _ in lines]
            rows = [parse(line, place, _DOCUMENT) for place, line in lines]
        else:
            raise UserError(f"documents are a .jsonl file of lines {_DOCUMENT}, or a .json list of them.")
        return [asdict(one) for one in check_documents(rows, where)]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
