"""A file of prompts, one JSON value a line, each checked and tokenised before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.blocks import half_pair
from iclens.lens.prompt.documents import contents, parse
from iclens.lens.prompt.options import PromptOptions
from iclens.lens.read.question import Question, ask
from iclens.lens.read.responding import responding
from iclens.lens.read.response_options import ResponseOptions

_LINE = '{"id": "a1", "demonstrations": [{"input": "...", "output": "..."}], "query": "...", "answers": ["...", "..."]}'


@dataclass(frozen=True)
class Defaults:
    """What holds for every line that does not say otherwise: how prompts are written, and the answers as in `ask`.

    `response` says the same of a response.
    """

    options: PromptOptions = field(default_factory=PromptOptions)
    answers: tuple[str, ...] = ()
    answer: str | None = None
    response: ResponseOptions = field(default_factory=ResponseOptions)


@dataclass(frozen=True)
class Line:
    """One line of the file.

    Attributes:
        number: which, from 1.
        id: the prompt's own name, or the number.
        question: the prompt; None when the line is bad.
        error: why it is bad, with the file and the line; None when it is not.
    """

    number: int
    id: str
    question: Question | None
    error: str | None = None


def read_lines(path: Path, lens_model: LensModel, defaults: Defaults | None = None) -> list[Line]:
    """Read every line of a file of prompts that is not blank, each as a prompt or as an error.

    A line, UTF-8, is a document that `read_document` reads; an object may also hold `"id"`, `"answers"` and `"answer"`,
    and what `ResponseOptions` has. A response that the model is to write is written later.
    What a line says goes before the defaults. Prompts must fit the model's tokenizer and context; its weights are not
    used.

    Raises:
        UserError: the file cannot be read, or holds no line.
    """
    seen: dict[str, int] = {}
    lines = []
    for number, raw in enumerate(contents(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        line = _read_line(number, raw, lens_model, defaults or Defaults())
        if line.error is None and line.id in seen:
            error = f"the id {line.id!r} is that of line {seen[line.id]} too: give each prompt its own."
            line = replace(line, question=None, error=error)
        seen.setdefault(line.id, number)
        lines.append(line if line.error is None else replace(line, error=f"{path}:{number}: {line.error}"))
    if not lines:
        raise UserError(f"{path} is empty: it needs at least one prompt. Write e.g. {_LINE}.")
    return lines


def _read_line(number: int, raw: bytes, lens_model: LensModel, defaults: Defaults) -> Line:
    name = str(number)
    try:
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            place = f"byte {error.start + 1} (0x{raw[error.start]:02x})"
            raise UserError(f"{place} is not UTF-8. Save the file as UTF-8.") from None
        document = parse(text, "this line", _LINE)
        if isinstance(document, dict):
            name = _name(document, name)
            document.pop("id", None)
        said = defaults.response
        question = ask(lens_model, document, defaults.answers, defaults.answer, defaults.options, response=said)
        return Line(number, name, responding(lens_model, question, write=False))
    except UserError as error:
        # A key may hold half of a surrogate pair, which neither a terminal nor a table can take.
        return Line(number, name, None, str(error).encode(errors="backslashreplace").decode())


def _name(document: Mapping[str, Any], number: str) -> str:
    name = document.get("id")
    if name is None:
        return number
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise UserError(f'"id" is {name!r}: give a string that is not empty, or a whole number.')
    if half_pair(str(name)):
        raise UserError(f'"id" {name!a} holds half of a surrogate pair: give whole characters.')
    return str(name)
