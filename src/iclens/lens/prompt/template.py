"""The template that writes a pair of input and output."""

from __future__ import annotations

import string
from collections.abc import Callable

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
    halves, seen_input = [[""]], False
    for literal, slot, specification, conversion in parsed:
        halves[-1][-1] += literal
        if slot is None:
            continue
        if slot not in ("input", "output") or specification or conversion:
            raise UserError(
                f"the template {template!r} has the slot {{{slot}}}, which is not known: write it like {right}."
            )
        if slot == "input":
            halves[-1].append("")
            seen_input = True
        elif len(halves) == 2:
            raise UserError(f"the template {template!r} has the slot {{output}} twice: write it like {right}.")
        elif not seen_input:
            raise UserError(f"the template {template!r} has no {{input}} before its {{output}}: write it like {right}.")
        else:
            halves.append([""])
    if len(halves) == 1:
        lacking = "{output}" if seen_input else "{input} and {output}"
        raise UserError(f"the template {template!r} lacks {lacking}: write it like {right}.")
    before, after = halves
    return (lambda given: given.join(before)), (lambda given: given.join(after))
