"""Which blocks of a text are its instruction, its demonstrations and its query, and which of them look otherwise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iclens.display_text import one_line
from iclens.errors import UserError
from iclens.lens.prompt.blocks import blocks, records, without_pattern
from iclens.lens.prompt.layouts import Layout, Place, between_marks, elements, labelled, lacking

_MOST_NAMED = 4
"""Blocks that a note names."""


@dataclass(frozen=True)
class Split:
    """A text as blocks.

    Attributes:
        blocks: where each lies, see `blocks`; the last is the query.
        n_instruction: how many of the first are an instruction.
        separator: what stands between them, None for blank lines.
        notes: what is doubtful about them.
        of_lines: whether the text alone says where they lie: no separator and no blank lines do.
    """

    blocks: tuple[tuple[int, int], ...]
    n_instruction: int = 0
    separator: str | None = None
    notes: tuple[str, ...] = ()
    of_lines: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The options with which the same text is split so again."""
        named = {"separator": self.separator, "instruction_blocks": self.n_instruction}
        return {} if self.of_lines else {name: value for name, value in named.items() if value}


def split_text(
    text: str, instruction_blocks: int | None, separator: str | None, *, chat: bool = False, least: int = 1
) -> Split:
    """Split a text into blocks: those between the separators that are named, or as the text itself lays them out.

    Where neither a separator nor `instruction_blocks` is told, blocks stand between blank lines, and first ones that
    lack the words before the answer are the instruction. Where these blocks are not alike, other layouts are tried (see
    `layouts`), and lines that are alike: `2+3=5`, `5+2=7`, `4+4=`. A note says what was done.

    Args:
        text: the text.
        instruction_blocks: how many of the first blocks are an instruction; None leaves that to the text.
        separator: what stands between blocks; blank lines when None.
        chat: whether the text is a message of a chat, which errors and notes then say.
        least: how many demonstrations it needs.

    Raises:
        UserError: fewer blocks than an instruction, `least` demonstrations and a query.
    """
    n_instruction = instruction_blocks or 0
    if n_instruction < 0:
        raise UserError(f"instruction_blocks is {instruction_blocks}: give 0 or more.")
    where = "the user's message" if chat else "the prompt"
    found = blocks(text, separator)
    if separator is None and instruction_blocks is None and (laid := _laid_out(text, found, where)):
        return laid
    if separator is None and len(found) < 2 and not n_instruction:
        found, n_instruction, separator, told = _by_lines(text, found)
        if told:
            notes = (f"No blank line stands in {where}, so that {told}. Name the separator if that is wrong.",)
            return Split(tuple(found), n_instruction, separator, notes, separator is None)
    if not found:
        raise UserError(f"{where} is empty: give demonstrations and a query, with blank lines between them.")
    if len(found) < n_instruction + 1 + least:
        told = f", the first {n_instruction} of them an instruction" if n_instruction else ""
        between, mark = ("blank lines", "a blank line") if separator is None else (f"separators {separator!r}", "one")
        alone = "the chat has no demonstration, neither a reply nor a block of its message: " if chat else ""
        lines_too = separator is None and "\n" in text.strip()
        advice = " Where every line is one, name the line end as the separator." if lines_too else ""
        raise UserError(
            f"{alone}{where} has {len(found)} block(s) between {between}{told}: it needs at least one demonstration, "
            f"then {mark}, then the query.{advice}"
        )
    return Split(tuple(found), n_instruction, separator, _unlike(text, found, n_instruction))


def _laid_out(text: str, found: list[Place], where: str) -> Split | None:
    """Read the layout of a text whose blocks between blank lines are not simply its demonstrations and its query."""
    layout = elements(text) or between_marks(text)
    if layout is None:
        shown = [text[start:end] for start, end in found]
        cue, odd = without_pattern(shown[:-1], shown[-1]) if len(found) > 2 else ("", [])
        layout = labelled(text)
        if re.search(r"\w", cue) and not odd and layout and not _but_for_instruction(layout, found):
            return None
        n_first = lacking(shown) or 0
        if n_first and (layout is None or layout.blocks == [(found[0][0], found[n_first - 1][1]), *found[n_first:]]):
            named = one_line(text[found[0][0] : found[n_first - 1][1]], 40)
            which, lack = ("The first block", "lacks") if n_first == 1 else (f"The first {n_first} blocks", "lack")
            note = (
                f"{which} of {where} ({named!r}) {lack} the words that stand before the answer in the others, and count"
                f"{'s' * (n_first == 1)} as the instruction. If that is wrong, say so: instruction_blocks=0."
            )
            return Split(tuple(found), n_first, None, (note,))
    if layout is None or layout.blocks == found:
        return None
    note = f"In {where} {layout.told}. Name the separator if that is wrong."
    has_instruction = int(layout.instruction is not None)
    return Split(tuple(layout.blocks), has_instruction, layout.separator, (note,), layout.separator is None)


def _but_for_instruction(layout: Layout, found: Sequence[Place]) -> bool:
    """Whether a layout has the blocks that blank lines give, but for an instruction within the first of them."""
    first, *others = (*layout.demonstrations, layout.query)
    return layout.instruction is not None and first[1] == found[0][1] and others == list(found[1:])


def _by_lines(text: str, found: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], int, str | None, str]:
    """Split a text without blank lines: its blocks, how many are an instruction, the separator, and what was done."""
    lines = blocks(text, "\n")
    begins = records([text[start:end] for start, end in lines])
    if begins:
        n, first = begins[1] - begins[0], begins[0]
        found = [(lines[i][0], lines[i + n - 1][1]) for i in begins]
        before = [(lines[0][0], lines[first - 1][1])] if first else []
        told = f"every {n} lines count as a demonstration{_after(first)}, and the last {n} as the query"
        return before + found, len(before), None, told
    cue, odd = _odd(text, lines)
    if cue and odd == list(range(len(odd))):
        told = f"each line with {cue!r} counts as a demonstration{_after(len(odd))}, and the last line as the query"
        return lines, len(odd), "\n", told
    return found, 0, None, ""


def _after(n_lines: int) -> str:
    return f", after {n_lines} of instruction" if n_lines else ""


def _odd(text: str, found: list[tuple[int, int]]) -> tuple[str, list[int]]:
    shown = [text[start:end] for start, end in found]
    return without_pattern(shown[:-1], shown[-1]) if len(shown) > 2 else ("", [])


def _unlike(text: str, found: list[tuple[int, int]], n_instruction: int) -> tuple[str, ...]:
    """Say which blocks do not look like demonstrations, and whether the query looks like several."""
    rest = found[n_instruction:]
    cue, odd = _odd(text, rest)
    notes = []
    if odd:
        names = ", ".join(f"{i} ({one_line(text[rest[i][0] : rest[i][1]], 40)!r})" for i in odd[:_MOST_NAMED])
        names += ", …" if len(odd) > _MOST_NAMED else ""
        one = len(odd) == 1
        advice = (
            "If a demonstration has a blank line inside, put a mark of your own between demonstrations, and name it: "
            "separator."
        )
        if odd == list(range(len(odd))):
            which = "that is" if one else "these are"
            advice = f"If {which} an instruction, say so: instruction_blocks={n_instruction + len(odd)}. {advice}"
        notes.append(
            f"{'Demonstration' if one else 'Demonstrations'} {names} {'lacks' if one else 'lack'} {cue!r} with an "
            f"answer after it, which the others have. {advice}"
        )
    start, end = rest[-1]
    lines = blocks(text[start:end], "\n")
    if not cue and len(lines) > 2 and _odd(text[start:end], lines)[0]:
        notes.append(
            f"The query has {len(lines)} lines, which look like demonstrations and a query themselves. If they are, "
            "name the line end as the separator."
        )
    return tuple(notes)
