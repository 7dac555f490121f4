"""A file of prompts, one JSON value a line, each checked and tokenised before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from iclens.errors import UserError
from iclens.lens.many.answer import Asked
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.documents import from_document, from_text, kind, parse
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.tokens import tokenize
from iclens.lens.read.answers import Answers

_LINE = '{"id": "a1", "demonstrations": [{"input": "...", "output": "..."}], "query": "...", "answers": ["...", "..."]}'
_OWN = ("id", "answers", "answer", "template")
_FORMS = ("demonstrations", "prompt", "messages")


@dataclass(frozen=True)
class Defaults:
    """What holds for every line that does not say otherwise.

    Attributes:
        template: for pairs of input and output.
        instruction: a text before the demonstrations.
        instruction_blocks: for plain text, how many of the first blocks are an instruction.
        answers: candidate answers.
        answer: the answer to explain.
    """

    template: str | None = None
    instruction: str | None = None
    instruction_blocks: int = 0
    answers: tuple[str, ...] = ()
    answer: str | None = None


@dataclass(frozen=True)
class Line:
    """One line of the file.

    Attributes:
        number: which, from 1.
        id: the prompt's own name, or the number.
        asked: the prompt; None when the line is bad.
        error: why it is bad, with the file and the line; None when it is not.
    """

    number: int
    id: str
    asked: Asked | None
    error: str | None = None


def read_lines(path: Path, lens_model: LensModel, defaults: Defaults | None = None) -> list[Line]:
    r"""Every line of a file of prompts that is not blank, each as a prompt or as an error.

    A line is a string (a plain-text prompt, its blank lines written \n\n), a list of pairs or of chat messages, or an
    object with one of `"prompt"` (plain text), `"demonstrations"` with `"query"` and perhaps `"instruction"`, or
    `"messages"`; an object may also hold `"id"`, `"answers"`, `"answer"`, `"template"` and `"instruction_blocks"`,
    which go before the defaults.

    Args:
        path: the file, UTF-8.
        lens_model: the model whose tokenizer and context the prompts must fit; its weights are not used.
        defaults: what holds for lines that do not say otherwise.

    Raises:
        UserError: the file cannot be read, or holds no line.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    seen: dict[str, int] = {}
    lines = []
    for number, line in _texts(raw):
        read = _read_line(number, line, lens_model, defaults or Defaults())
        if read.id in seen and read.error is None:
            read = replace(
                read,
                asked=None,
                error=f"the id {read.id!r} is that of line {seen[read.id]} too: give each prompt its own.",
            )
        seen.setdefault(read.id, number)
        lines.append(replace(read, error=f"{path}:{number}: {read.error}") if read.error is not None else read)
    if not lines:
        raise UserError(f"{path} is empty: it needs at least one prompt. Write e.g. {_LINE}.")
    return lines


def _texts(raw: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _read_line(number: int, line: bytes, lens_model: LensModel, defaults: Defaults) -> Line:
    name = str(number)
    try:
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8. Save the file as UTF-8."
            ) from None
        document = parse(text, "this line", _LINE)
        if isinstance(document, dict):
            name = _name(document, name)
        return Line(number, name, _asked(document, lens_model, defaults))
    except UserError as error:
        # A key may hold half of a surrogate pair, which neither a terminal nor a table can take.
        return Line(number, name, None, str(error).encode(errors="backslashreplace").decode())


def _name(document: Mapping[str, Any], number: str) -> str:
    name = document.get("id")
    if name is None:
        return number
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise UserError(f'"id" is {name!r}: give a string that is not empty, or a whole number.')
    try:
        str(name).encode()
    except UnicodeEncodeError:
        raise UserError(f'"id" {name!a} holds half of a surrogate pair: give whole characters.') from None
    return str(name)


def _asked(document: Any, lens_model: LensModel, defaults: Defaults) -> Asked:
    own: dict[str, Any] = {}
    if isinstance(document, dict):
        own = {key: document[key] for key in _OWN if key in document and key != "id"}
        document = {key: value for key, value in document.items() if key not in _OWN}
    for key in ("answer", "template"):
        if own.get(key) is not None and not isinstance(own[key], str):
            raise UserError(f'"{key}" is a JSON {kind(own[key])}, not a string. Put it in quotes.')
    answers = own.get("answers") or []
    if not isinstance(answers, list):
        raise UserError(f'"answers" is a JSON {kind(answers)}, not a list. Write e.g. "answers": ["red", "blue"].')
    for i, answer in enumerate(answers):
        if not isinstance(answer, str):
            raise UserError(f'item {i} of "answers" is a JSON {kind(answer)}, not a string. Put it in quotes.')
    if own.get("answer") is not None or answers:
        # A line that names its answers names all of them.
        defaults = replace(defaults, answers=tuple(answers), answer=own.get("answer"))
    if own.get("template") is not None:
        defaults = replace(defaults, template=own["template"])
    prompt = _prompt(document, lens_model.tokenizer, defaults, "template" in own)
    tokenized = tokenize(prompt, lens_model.tokenizer, lens_model.context_length)
    built = Answers.build(
        tokenized, lens_model.tokenizer, defaults.answers or None, defaults.answer, lens_model.context_length
    )
    asked = Asked(tokenized, built)
    if len(built.candidates) > 1:
        # Which is the likeliest is not known yet, but whether each could be told from the others is.
        for chosen in range(len(built.candidates)) if built.explained is None else [built.explained]:
            built.margin(lens_model.tokenizer, torch.zeros(1), chosen)
    limit = lens_model.context_length
    if limit is not None and asked.longest > limit:
        raise UserError(
            f"prompt and answer together have {asked.longest} tokens, but the model's context holds {limit}: shorten "
            "the prompt."
        )
    return asked


def _prompt(document: Any, tokenizer: Any, defaults: Defaults, own_template: bool) -> Prompt:
    if isinstance(document, str):
        return _plain(document, defaults, own_template)
    if isinstance(document, list):
        return _pairs_or_chat(document, tokenizer, defaults, own_template)
    if not isinstance(document, dict):
        raise UserError(f"a JSON {kind(document)}. Write e.g. {_LINE}.")
    if "input" in document and set(document) <= {"input", "output"}:
        raise UserError(f"this is one pair, but a line is a whole prompt. Write e.g. {_LINE}.")
    forms = [form for form in _FORMS if form in document]
    if len(forms) != 1:
        said = " and ".join(f'"{form}"' for form in forms) or "none of them"
        named = ", ".join(f'"{form}"' for form in _FORMS)
        raise UserError(f"a prompt has exactly one of {named}; this has {said}. Write e.g. {_LINE}.")
    if forms == ["demonstrations"]:
        instruction = None if "instruction" in document else defaults.instruction
        return from_document(document, tokenizer, defaults.template, None, instruction)
    rest = {key: value for key, value in document.items() if key not in forms}
    if "instruction" in rest:
        instruction = rest.pop("instruction")
        if instruction is not None and not isinstance(instruction, str):
            raise UserError(f'"instruction" is a JSON {kind(instruction)}, not a string. Put it in quotes.')
        defaults = replace(defaults, instruction=instruction)
    if "instruction_blocks" in rest and forms == ["prompt"]:
        blocks = rest.pop("instruction_blocks")
        if isinstance(blocks, bool) or not isinstance(blocks, int):
            raise UserError(f'"instruction_blocks" is {blocks!r}: give a whole number.')
        defaults = replace(defaults, instruction_blocks=blocks)
    if rest:
        raise UserError(f'the key "{sorted(rest)[0]}" is not known. Write e.g. {_LINE}.')
    content = document[forms[0]]
    if forms == ["prompt"]:
        if not isinstance(content, str):
            raise UserError(f'"prompt" is a JSON {kind(content)}, not a string.')
        return _plain(content, defaults, own_template)
    if not isinstance(content, list):
        raise UserError(f'"messages" is a JSON {kind(content)}, not a list.')
    return _pairs_or_chat(content, tokenizer, defaults, own_template)


def _plain(text: str, defaults: Defaults, own_template: bool) -> Prompt:
    if own_template:
        raise UserError('"template" is for pairs of input and output, not for a plain-text prompt.')
    return from_text(text.replace("\r\n", "\n"), None, defaults.instruction, defaults.instruction_blocks)


def _pairs_or_chat(items: list[Any], tokenizer: Any, defaults: Defaults, own_template: bool) -> Prompt:
    chat = bool(items) and isinstance(items[0], dict) and "role" in items[0]
    template = defaults.template if own_template or not chat else None
    return from_document(items, tokenizer, template, None, defaults.instruction)
