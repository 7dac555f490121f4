"""The template that writes a pair of input and output."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from functools import partial

from iclens.errors import UserError

DEFAULT_TEMPLATE = "Input: {input}\nOutput: {output}"


def parse_template(template: str) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """Split a template at its output: two functions of the input, which write what stands before and after it.

    Raises:
        UserError: it is no format string, or lacks or repeats a slot.
    """
    right = 'e.g. "Input: {input}\\nOutput: {output}" (write a brace itself as {{ or }})'
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"the template {template!r} is no format string ({error}): write it like {right}.") from None
    unknown = [slot for _, slot, *form in parsed if slot is not None and (slot not in ("input", "output") or any(form))]
    slots = [slot for _, slot, _, _ in parsed if slot is not None]
    problem = (
        (unknown and f"has the slot {{{unknown[0]}}}, which is not known")
        or (not slots and "lacks {input} and {output}")
        or (slots[0] == "output" and "has no {input} before its {output}")
        or ("output" not in slots and "lacks {output}")
        or (slots.count("output") > 1 and "has the slot {output} twice")
    )
    if problem:
        raise UserError(f"the template {template!r} {problem}: write it like {right}.")
    pieces = [(literal, slot) for literal, slot, _, _ in parsed]
    after = [slot for _, slot in pieces].index("output") + 1
    return partial(_written, pieces[:after]), partial(_written, pieces[after:])


def _written(pieces: Sequence[tuple[str, str | None]], given: str) -> str:
    return "".join(literal + (given if slot == "input" else "") for literal, slot in pieces)
