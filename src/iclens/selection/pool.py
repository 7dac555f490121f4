"""The demonstrations to choose from, and how a prompt is written with some of them."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.lens.prompt import Prompt, read_prompt
from iclens.lens.prompt.blocks import ending
from iclens.lens.prompt.outputs import outputs_of
from iclens.lens.prompt.sources import BLANK_LINE, DEMONSTRATION
from iclens.lens.prompt.template import DEFAULT_TEMPLATE, parse_template
from iclens.selection.examples import Example, ExamplesLike, read_examples


@dataclass(frozen=True)
class Writing:
    """How demonstrations and a query become a prompt, see `Prompt.from_examples`.

    Attributes:
        template: how a pair is written.
        instruction: a text before the demonstrations.
        separator: what stands between them.
    """

    template: str = DEFAULT_TEMPLATE
    instruction: str | None = None
    separator: str = BLANK_LINE

    def prompt(self, shots: Sequence[Example], query: str) -> Prompt:
        """Write a prompt."""
        pairs = [(one.input, str(one.output)) for one in shots]
        return Prompt.from_examples(pairs, query, self.template, self.instruction, self.separator)

    @property
    def stop(self) -> str:
        """What ends an output: what the template writes after it, or else the separator, or a line end."""
        after = parse_template(self.template)[1]("").strip()
        return after or self.separator.strip() or "\n"


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
) -> Pool:
    """Read a pool from examples, or from the demonstrations of a prompt.

    A `.jsonl`, `.json` (a list) or `.csv` file and a list hold examples; any other file is a prompt, as `read_prompt`
    reads it, whose template is found from what its demonstrations share when none is given.

    Raises:
        UserError: something cannot be read, only some outputs are known, or a prompt's demonstrations are not written
            alike.
    """
    options = {"template": template, "instruction": instruction, "separator": separator}
    told = {name: value for name, value in options.items() if value is not None}
    if isinstance(given, str | Path) and _is_prompt(Path(given)):
        given = read_prompt(given, separator=separator)
    if isinstance(given, Prompt):
        pool = _of_prompt(given, template)
        return replace(pool, writing=replace(pool.writing, **told))
    examples = read_examples(given, "the pool")
    unknown = [i for i, one in enumerate(examples) if one.output is None]
    if unknown and len(unknown) < len(examples):
        raise UserError(
            f"{len(unknown)} of {len(examples)} demonstrations have no output, first number {unknown[0]} (from 0): "
            "give all outputs, or none."
        )
    parse_template(template or DEFAULT_TEMPLATE)
    return Pool(examples, Writing(**told))


def _is_prompt(path: Path) -> bool:
    ending_of = path.suffix.lower()
    if ending_of != ".json":
        return ending_of not in (".jsonl", ".csv")
    return path.is_file() and path.read_bytes().decode("utf-8-sig", "replace").lstrip().startswith("{")


def _of_prompt(prompt: Prompt, template: str | None) -> Pool:
    """The pairs that a prompt's demonstrations are."""
    if any(name.kind != DEMONSTRATION for name in prompt.source_names) or not prompt.add_special_tokens:
        raise UserError(
            "the prompt is a chat, or holds documents: give its demonstrations as pairs of input and output."
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
    """What a text that the template wrote looks like."""
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
    """What all texts begin with."""
    first, last = min(texts), max(texts)
    return first[: next((i for i, one in enumerate(first) if one != last[i : i + 1]), len(first))]


def _mark(shared: str) -> str:
    """What marks an input, of what all demonstrations begin with: up to the last colon or line end."""
    found = re.match(r".*(?:[:=>|]|\n)\s*", shared, re.DOTALL)
    return found[0] if found else ""


def _cue(shared: str) -> str:
    """What leads to an output, of what stands before every output: from its first line end, space or sign on."""
    found = re.search(r"\n.*", shared, re.DOTALL) or re.search(r"\s+\S.*", shared, re.DOTALL)
    return found[0] if found else shared.lstrip(string.ascii_letters + string.digits)


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
