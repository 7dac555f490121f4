"""The demonstrations to choose from, and how a prompt is written with some of them."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.lens.prompt import Prompt, read_prompt
from iclens.lens.prompt.blocks import ending
from iclens.lens.prompt.documents import contents
from iclens.lens.prompt.outputs import outputs_of
from iclens.lens.prompt.sources import DEMONSTRATION
from iclens.lens.prompt.template import DEFAULT_TEMPLATE, parse_template
from iclens.selection.chats import messages_of, turns
from iclens.selection.examples import Example, ExamplesLike, read_examples
from iclens.selection.writing import ChatTemplate, Writing


@dataclass(frozen=True)
class Pool:
    """The demonstrations to choose from, and how they are written."""

    demonstrations: tuple[Example, ...]
    writing: Writing

    @property
    def is_labelled(self) -> bool:
        """Whether the outputs are known."""
        return self.demonstrations[0].output is not None


def read_pool(
    given: ExamplesLike | Prompt,
    template: str | None = None,
    instruction: str | None = None,
    separator: str | None = None,
    *,
    as_chat: bool = False,
    template_args: Mapping[str, Any] | None = None,
    system_in_user: bool = False,
) -> Pool:
    """Read a pool from examples, or from the demonstrations of a prompt.

    A `.jsonl`, `.json` (a list) or `.csv` file and a list hold examples; any other file is a prompt, as `read_prompt`
    reads it, whose template is found from what its demonstrations share when none is given. A chat, and examples that
    are chats of one question, are written by the model's chat template, unless a template is given.

    Raises:
        UserError: something cannot be read, only some outputs are known, or a prompt's demonstrations are not written
            alike.
    """
    given_chat = _chat_of(given)
    if given_chat is not None:
        pool = _of_chat(given_chat)
    elif isinstance(given, Prompt) or (isinstance(given, str | Path) and _is_prompt(Path(given))):
        pool = _of_prompt(given if isinstance(given, Prompt) else read_prompt(given, separator=separator), template)
    else:
        pool = _of_examples(read_examples(given, "the pool"))
    options = {"template": template, "instruction": instruction, "separator": separator}
    told: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    chat = pool.writing.chat or (ChatTemplate() if as_chat else None)
    if as_chat and (template is not None or separator is not None):
        raise UserError("a chat is written by the model's chat template: leave template and separator out.")
    chat = None if template is not None else chat
    if chat is None and (template_args or system_in_user):
        name = "template_args" if template_args else "system_in_user"
        raise UserError(f"{name} is for chats: say as_chat, so that the pairs are written as a chat.")
    if chat is not None:
        args, folded = template_args or chat.template_args, system_in_user or chat.system_in_user
        chat = replace(chat, template_args=args, system_in_user=folded)
    parse_template(template or DEFAULT_TEMPLATE)
    return replace(pool, writing=replace(pool.writing, chat=chat, **told))


def _of_examples(examples: Sequence[Example]) -> Pool:
    unknown = [i for i, one in enumerate(examples) if one.output is None]
    if unknown and len(unknown) < len(examples):
        raise UserError(
            f"{len(unknown)} of {len(examples)} demonstrations have no output, first number {unknown[0]} (from 0): "
            "give all outputs, or none."
        )
    if not all(one.is_turn for one in examples):
        return Pool(tuple(examples), Writing())
    systems = {one.system for one in examples}
    if len(systems) > 1:
        raise UserError("the system messages of the pool's chats differ: a prompt has one, so give all the same.")
    return Pool(tuple(examples), Writing(instruction=systems.pop(), chat=ChatTemplate()))


def _chat_of(given: ExamplesLike | Prompt) -> Any:
    """Return the document of a pool that is one chat, or None."""
    if isinstance(given, Prompt):
        document: Any = given.document
    elif isinstance(given, str | Path):
        path = Path(given)
        if path.suffix.lower() != ".json" or not path.is_file():
            return None
        try:
            document = json.loads(contents(path).decode("utf-8-sig"))
        except (ValueError, RecursionError):
            # Said where the file is read as what it is.
            return None
    else:
        document = given if isinstance(given, Mapping | list | tuple) else None
    # What has messages is meant as a chat, and what is wrong with them is told of a chat.
    is_chat = isinstance(document, Mapping) and isinstance(document.get("messages"), list)
    return document if is_chat or messages_of(document) is not None else None


def _of_chat(document: Any) -> Pool:
    """Return the questions and replies of a chat; a last question without a reply is no demonstration."""
    own = document if isinstance(document, Mapping) else {"messages": document}
    instruction, pairs = turns(own["messages"])
    shots = [(question, reply) for question, reply in pairs if reply is not None]
    if not shots:
        raise UserError(
            "the chat has no reply of the assistant, and so no demonstration: give questions with their replies."
        )
    chat = ChatTemplate(own.get("template_args"), bool(own.get("system_in_user")))
    return Pool(read_examples(shots, "the chat"), Writing(instruction=instruction, chat=chat))


def _is_prompt(path: Path) -> bool:
    ending_of = path.suffix.lower()
    if ending_of != ".json":
        return ending_of not in (".jsonl", ".csv")
    return path.is_file() and path.read_bytes().decode("utf-8-sig", "replace").lstrip().startswith("{")


def _of_prompt(prompt: Prompt, template: str | None) -> Pool:
    """Return the pairs that a prompt's demonstrations are."""
    if any(name.kind != DEMONSTRATION for name in prompt.source_names) or not prompt.add_special_tokens:
        raise UserError(
            "the prompt holds documents, or other spans: give its demonstrations as pairs of input and output."
        )
    document: dict[str, Any] = prompt.document or {}
    pairs = document.get("demonstrations")
    if pairs and isinstance(pairs[0], dict):
        told = {name: document[name] for name in ("template", "instruction", "separator") if document.get(name)}
        return Pool(read_examples(pairs, "the prompt"), Writing(**told))
    gaps = {prompt.text[one.end : other.start] for one, other in pairwise((*prompt.demonstrations, prompt.query))}
    if len(gaps) > 1:
        raise UserError(
            "what stands between the prompt's demonstrations differs: write them alike, or give pairs of input and "
            "output."
        )
    template = _template_of(prompt) if template is None else template
    instruction = None if prompt.instruction is None else prompt.instruction.of(prompt.text)
    form = _pattern(template)
    examples = []
    for i, span in enumerate(prompt.demonstrations):
        found = form.fullmatch(span.of(prompt.text))
        if found is None:
            raise UserError(
                f"demonstration {i} ({span.of(prompt.text)[:40]!r}) is not written as {template!r}: give the right "
                "template, or the pool as pairs of input and output."
            )
        examples.append(Example(found["input"], found["output"]))
    return Pool(read_examples(examples, "the prompt"), Writing(template, instruction, gaps.pop()))


def _pattern(template: str) -> re.Pattern[str]:
    """Return what a text that the template wrote looks like."""
    parse_template(template)
    parts, seen = [], set[str]()
    for literal, slot, _, _ in string.Formatter().parse(template):
        parts.append(re.escape(literal))
        if slot is not None:
            parts.append(f"(?P={slot})" if slot in seen else f"(?P<{slot}>.+)")
            seen.add(slot)
    return re.compile("".join(parts), re.DOTALL)


def _template_of(prompt: Prompt) -> str:
    """The template of a plain text: what stands before every input, between input and output, and after the output."""
    outputs = outputs_of(prompt)
    if any(output is None for output in outputs):
        raise UserError(
            "where the outputs of the prompt's demonstrations begin is not clear: give the template that wrote them, "
            r'e.g. "Input: {input}\nOutput: {output}".'
        )
    spans = list(zip(prompt.demonstrations, outputs, strict=True))
    tails = [output.of(prompt.text) for _, output in spans if output is not None]
    bodies = [prompt.text[one.start : output.start] for one, output in spans if output is not None]
    bodies.append(prompt.query.of(prompt.text) + prompt.lead)
    before = _mark(_shared(bodies))
    cue = _cue(_shared([body[len(before) :][::-1] for body in bodies])[::-1])
    written = [_escaped(part) for part in (before, cue, ending(tails))]
    return "{}{{input}}{}{{output}}{}".format(*written)


def _shared(texts: Sequence[str]) -> str:
    """Return what all texts begin with."""
    first, last = min(texts), max(texts)
    return first[: next((i for i, one in enumerate(first) if one != last[i : i + 1]), len(first))]


def _mark(shared: str) -> str:
    """Return what marks an input, of what all demonstrations begin with: up to the last colon or line end."""
    found = re.match(r".*(?:[:=>|]|\n)\s*", shared, re.DOTALL)
    return found[0] if found else ""


def _cue(shared: str) -> str:
    """Return what leads to an output, of what stands before every output: from its first line end, space or sign on."""
    found = re.search(r"\n.*", shared, re.DOTALL) or re.search(r"\s+\S.*", shared, re.DOTALL)
    return found[0] if found else shared.lstrip(string.ascii_letters + string.digits)


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
