"""Prompts from files: plain text, JSON and JSONL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.lens.prompt.prompt import Prompt

_PAIR = '{"input": "...", "output": "..."}'
_MESSAGE = '{"role": "user", "content": "..."}'
_OBJECT = '{"demonstrations": [{"input": "...", "output": "..."}], "query": "..."}'


def load(
    path: str | Path,
    tokenizer: Any = None,
    template: str | None = None,
    query: str | None = None,
    instruction: str | None = None,
    instruction_blocks: int = 0,
) -> Prompt:
    """Reads a prompt file; its ending says how.

    - `.jsonl`: one `{"input", "output"}` a line; the last without `output` is the query, unless `query` is given.
    - `.json`: `{"demonstrations": [{"input", "output"}], "query", "instruction"?}`, or a list of
      `{"input", "output"}` as in `.jsonl`, or a list of chat messages `{"role", "content"}`.
    - anything else: plain text, blank lines between demonstrations and the query last.

    A file is UTF-8, with or without a byte order mark; its line ends may be Windows'.

    Args:
        path: the file.
        tokenizer: needed for chat messages alone, for its chat template.
        template: for pairs of input and output, see `Prompt.from_examples`.
        query: the query's input; for plain text its whole block. It comes after everything in the file.
        instruction: a text before the demonstrations.
        instruction_blocks: for plain text, how many of the first blocks are an instruction.

    Raises:
        UserError: the file cannot be read or does not hold a prompt; the message names the file and the line.
    """
    path = Path(path)
    text = _read(path)
    ending = path.suffix.lower()
    try:
        if ending == ".jsonl":
            return _from_lines(text, template, query, instruction)
        if ending == ".json":
            return _from_json(text, tokenizer, template, query, instruction)
        if template is not None:
            raise UserError("a template is for pairs of input and output (.json, .jsonl), not for plain text.")
        return from_text(text, query, instruction, instruction_blocks)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _read(path: Path) -> str:
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a prompt file (.txt, .json or .jsonl).")
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8. Save the file as UTF-8."
        ) from None
    text = text.replace("\r\n", "\n")
    if not text.strip():
        raise UserError(f"{path} is empty: it needs at least one demonstration and a query.")
    return text


def from_text(text: str, query: str | None, instruction: str | None, instruction_blocks: int) -> Prompt:
    """A plain-text prompt, with a query behind it and an instruction before it where they are given."""
    if query is not None:
        text = f"{text}\n\n{query}"
    if instruction is not None and instruction.strip():
        text = f"{instruction}\n\n{text}"
        instruction_blocks += Prompt.count_blocks(instruction)
    return Prompt.from_text(text, instruction_blocks)


def _from_lines(text: str, template: str | None, query: str | None, instruction: str | None) -> Prompt:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append((f"line {number}", parse(line, f"line {number}", _PAIR)))
    return _from_rows(rows, template, query, instruction)


def parse(text: str, where: str, right: str) -> Any:
    """The JSON of a file (`where` empty) or of one line, or a refusal that shows what is `right`."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if where == "" else f"{where}, column {error.colno}"
        raise UserError(f"{place}: not JSON ({error.msg}). Write e.g. {right}.") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{where or 'the file'}: JSON that cannot be read ({error}). Write e.g. {right}.") from None


def _from_rows(rows: list[tuple[str, Any]], template: str | None, query: str | None, instruction: str | None) -> Prompt:
    examples: list[tuple[str, str]] = []
    for i, (where, row) in enumerate(rows):
        _check_row(where, row)
        if "output" in row:
            examples.append((row["input"], row["output"]))
        elif i < len(rows) - 1:
            raise UserError(f'{where}: no "output", which only the last may lack. Write e.g. {_PAIR}.')
        elif query is not None:
            raise UserError(f'{where}: no "output", so it is a query, but another query was given. Drop one of them.')
        else:
            query = row["input"]
    if query is None:
        raise UserError('there is no query: give one, or end with {"input": "..."} without "output".')
    return Prompt.from_examples(examples, query, template, instruction)


def _check_row(where: str, row: Any) -> None:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON {kind(row)}. Write e.g. {_PAIR}.")
    if "input" not in row:
        raise UserError(f'{where}: no "input". Write e.g. {_PAIR}.')
    unknown = sorted(set(row) - {"input", "output"})
    if unknown:
        raise UserError(f'{where}: the key "{unknown[0]}" is not known. Write e.g. {_PAIR}.')
    for key, value in row.items():
        if not isinstance(value, str):
            raise UserError(f'{where}: "{key}" is a JSON {kind(value)}, not a string. Put it in quotes.')


def _from_json(text: str, tokenizer: Any, template: str | None, query: str | None, instruction: str | None) -> Prompt:
    return from_document(parse(text, "", _OBJECT), tokenizer, template, query, instruction)


def from_document(
    document: Any,
    tokenizer: Any = None,
    template: str | None = None,
    query: str | None = None,
    instruction: str | None = None,
) -> Prompt:
    """What a `.json` file holds, already parsed: an object of demonstrations and a query, pairs, or chat messages.

    Args:
        document: lists, dictionaries and strings.
        tokenizer: as in `load`.
        template: as in `load`.
        query: as in `load`.
        instruction: as in `load`.

    Raises:
        UserError: it is no prompt.
    """
    if isinstance(document, list):
        if document and isinstance(document[0], dict) and "role" in document[0]:
            return _from_messages(document, tokenizer, template, query, instruction)
        return _from_rows([(f"item {i}", row) for i, row in enumerate(document)], template, query, instruction)
    if not isinstance(document, dict):
        raise UserError(f"a JSON {kind(document)}. Write e.g. {_OBJECT}.")
    unknown = sorted(set(document) - {"demonstrations", "query", "instruction"})
    if unknown:
        raise UserError(f'the key "{unknown[0]}" is not known. Write e.g. {_OBJECT}.')
    demonstrations = document.get("demonstrations")
    if not isinstance(demonstrations, list):
        raise UserError(f'"demonstrations" must be a list. Write e.g. {_OBJECT}.')
    for key, given in (("query", query), ("instruction", instruction)):
        value = document.get(key)
        if value is not None and not isinstance(value, str):
            raise UserError(f'"{key}" is a JSON {kind(value)}, not a string. Put it in quotes.')
        if value is not None and given is not None:
            raise UserError(f'"{key}" stands in the file, but another one was given. Drop one of them.')
    rows = []
    for i, row in enumerate(demonstrations):
        where = f"demonstration {i}"
        _check_row(where, row)
        if "output" not in row:
            raise UserError(f'{where}: no "output". Write e.g. {_PAIR}.')
        rows.append((where, row))
    asked = query if query is not None else document.get("query")
    if asked is None:
        raise UserError(f'there is no "query". Write e.g. {_OBJECT}.')
    return _from_rows(rows, template, asked, instruction or document.get("instruction"))


def _from_messages(
    messages: list[Any], tokenizer: Any, template: str | None, query: str | None, instruction: str | None
) -> Prompt:
    if tokenizer is None:
        raise UserError("chat messages need a tokenizer, whose chat template writes them.")
    if template is not None:
        raise UserError("a template is for pairs of input and output; chat messages use the tokenizer's own.")
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise UserError(f"message {i}: a JSON {kind(message)}. Write e.g. {_MESSAGE}.")
    chat = list(messages)
    if instruction is not None:
        if chat[0].get("role") == "system":
            raise UserError("the chat has a system message, but an instruction was given too. Drop one of them.")
        chat.insert(0, {"role": "system", "content": instruction})
    if query is not None:
        chat.append({"role": "user", "content": query})
    return Prompt.from_chat(chat, tokenizer)


def kind(value: Any) -> str:
    """What JSON calls a value."""
    kinds = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "null")
