"""What the page asks: a prompt and its answers, checked where they enter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iclens.errors import UserError
from iclens.explorer.reading import known, text, texts, whole
from iclens.lens.prompt.prompt import BLANK_LINE, Prompt

_KEYS = (
    "text",
    "instruction_blocks",
    "demonstrations",
    "query",
    "instruction",
    "template",
    "answers",
    "answer",
    "off",
    "layer",
    "head",
)


@dataclass(frozen=True)
class Ask:
    """One question to the lens.

    Attributes:
        prompt: the prompt, with every demonstration.
        answers: candidate answers; empty for the likeliest next token.
        answer: the answer to explain, or None.
        off: indices of the demonstrations that are switched off.
        layer: the layer that is looked at, or None.
        head: the head that is looked at, or None.
        instruction_blocks: how many of the text's first blocks are the instruction; None when the prompt came as
            pairs.
        pairs: the demonstrations as pairs, or None when they came as text.
        template: how the pairs were written, or None.
        query: the input of the pairs' query, or None.
        instruction: the text before the pairs, or None.
    """

    prompt: Prompt
    answers: tuple[str, ...] = ()
    answer: str | None = None
    off: tuple[int, ...] = ()
    layer: int | None = None
    head: int | None = None
    instruction_blocks: int | None = 0
    pairs: tuple[tuple[str, str], ...] | None = None
    template: str | None = None
    query: str | None = None
    instruction: str | None = None

    @classmethod
    def read(cls, document: Any) -> Ask:
        """Read a question from JSON.

        The prompt is either `"text"` (blank lines between demonstrations, query last; `"instruction_blocks"`), or
        `"demonstrations"` with `"query"`: all of them blocks of text as they stand, or all of them pairs
        `{"input", "output"}`, written through `"template"`. `"instruction"` stands before them.

        Raises:
            UserError: a key that is not known, a value of the wrong kind, or a prompt that cannot be read.
        """
        document = known(document, _KEYS, '{"text": …} or {"demonstrations": […], "query": …}')
        common: dict[str, Any] = {
            "answers": tuple(texts(document, "answers")),
            "answer": text(document, "answer") or None,
            "layer": whole(document, "layer"),
            "head": whole(document, "head"),
        }
        read = _from_text if document.get("text") is not None else _from_parts
        given = read(document)
        off = _off(document.get("off") or [], len(given["prompt"].demonstrations))
        return cls(**given, **common, off=off)


def _from_text(document: Mapping[str, Any]) -> dict[str, Any]:
    for other in ("demonstrations", "query", "instruction", "template"):
        if document.get(other) is not None:
            raise UserError(f"'text' and {other!r} are both given: give the prompt as text or in parts.")
    blocks = whole(document, "instruction_blocks") or 0
    return {"prompt": Prompt.from_text(text(document, "text") or "", blocks), "instruction_blocks": blocks}


def _from_parts(document: Mapping[str, Any]) -> dict[str, Any]:
    demonstrations = document.get("demonstrations")
    if not isinstance(demonstrations, list) or not demonstrations:
        raise UserError("there are no demonstrations: a prompt needs at least one, and a query.")
    query = text(document, "query")
    if query is None or not query.strip():
        raise UserError("the query is empty: write what the model is to continue.")
    instruction = text(document, "instruction") or ""
    if all(isinstance(entry, str) for entry in demonstrations):
        if document.get("template") is not None:
            raise UserError("a template writes pairs of input and output: these demonstrations are text already.")
        return _from_blocks(demonstrations, query, instruction)
    pairs = tuple(_pair(i, entry) for i, entry in enumerate(demonstrations))
    template = text(document, "template")
    before = instruction if instruction.strip() else None
    return {
        "prompt": Prompt.from_examples(pairs, query, template, before),
        "instruction_blocks": None,
        "pairs": pairs,
        "template": template,
        "query": query,
        "instruction": before,
    }


def _from_blocks(blocks: list[str], query: str, instruction: str) -> dict[str, Any]:
    """Join blocks as a text file holds them, so that its reading gives back exactly these."""
    named = [(f"demonstration {i}", block) for i, block in enumerate(blocks)] + [("the query", query)]
    for name, block in named:
        if not block.strip():
            raise UserError(f"{name} is empty: write something in it, or delete it.")
        if Prompt.count_blocks(block) > 1:
            raise UserError(f"{name} has a blank line in it, which would make two of it: write it without.")
    leading = Prompt.count_blocks(instruction)
    # Line ends around a block would widen the blank line that parts it from the next.
    parts = [*([instruction.strip("\r\n")] if leading else []), *(block.strip("\r\n") for block in blocks)]
    joined = BLANK_LINE.join([*parts, query.strip("\r\n")])
    return {"prompt": Prompt.from_text(joined, leading), "instruction_blocks": leading}


def _pair(index: int, entry: Any) -> tuple[str, str]:
    right = '{"input": "…", "output": "…"}'
    if not isinstance(entry, Mapping) or set(entry) != {"input", "output"}:
        raise UserError(f"demonstration {index} is no pair: write all of them as {right}, or all of them as text.")
    if not all(isinstance(part, str) for part in entry.values()):
        raise UserError(f"demonstration {index} holds something that is no string: write it as {right}.")
    return entry["input"], entry["output"]


def _off(value: Any, n_demonstrations: int) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in value):
        raise UserError("'off' must be a list of the demonstrations' numbers.")
    for index in value:
        if not 0 <= index < n_demonstrations:
            raise UserError(f"cannot switch off demonstration {index}: the prompt has {n_demonstrations}, from 0 on.")
    return tuple(sorted(set(value)))
