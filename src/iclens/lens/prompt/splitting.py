"""Which blocks of a text are its instruction, its demonstrations and its query, and which of them look otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iclens.display_text import one_line
from iclens.errors import UserError
from iclens.lens.prompt.blocks import blocks, without_pattern
from iclens.lens.prompt.layouts import (
    Layout,
    Place,
    alike,
    begin_alike,
    between_marks,
    elements,
    has_mark,
    labelled,
    of_one_line,
    of_several_lines,
)

_MOST_NAMED = 4
"""Blocks that a note names."""


@dataclass(frozen=True)
class Split:
    """How a text divides into an instruction, demonstrations and a query.

    Attributes:
        blocks: where each lies, see `blocks`; the last is the query.
        n_instruction: how many of the first are an instruction.
        separator: what stands between them, None for blank lines.
        notes: what is doubtful about them.
        laid_out: whether its layout says where they lie, and neither blank lines nor a separator do.
    """

    blocks: tuple[tuple[int, int], ...]
    n_instruction: int = 0
    separator: str | None = None
    notes: tuple[str, ...] = ()
    laid_out: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The options with which the same text is split so again."""
        named = {"separator": self.separator, "instruction_blocks": self.n_instruction}
        return {} if self.laid_out else {name: value for name, value in named.items() if value}


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
    is_open = separator is None and (instruction_blocks is None or (not n_instruction and len(found) < 2))
    if is_open and (laid := _laid_out(text, found, where)):
        return laid
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
    shown = [text[slice(*place)] for place in found]
    n_first = alike(shown, by_signs=False) if len(found) > 1 else None
    layout = elements(text)
    if layout is None and (n_first is None or not has_mark(shown[-1])):
        layout = between_marks(text)
    if layout is None and len(found) == 1:
        layout = of_several_lines(text)
    if layout is None:
        layout = labelled(text)
        if n_first is not None and not (layout and _but_for_instruction(text, layout, found[n_first:])):
            return _behind_instruction(text, found, n_first, where)
    if layout is None:
        n_first = alike(shown) if len(found) > 1 else None
        layout = of_one_line(text)
        if n_first is not None and (layout is None or len(layout.demonstrations) < len(found) - n_first):
            return _behind_instruction(text, found, n_first, where)
    if layout is None:
        return None
    has_instruction = int(layout.instruction is not None)
    if layout.blocks == found:
        return _behind_instruction(text, found, has_instruction, where)
    note = f"In {where} {layout.told}. Name the separator if that is wrong."
    return Split(tuple(layout.blocks), has_instruction, None, (note,), laid_out=True)


def _behind_instruction(text: str, found: list[Place], n_first: int, where: str) -> Split | None:
    """Keep the blocks between blank lines, the first of them an instruction; None where none is one."""
    if not n_first:
        return None
    named = one_line(text[found[0][0] : found[n_first - 1][1]], 40)
    which, lack, counts = (
        ("The first block", "lacks", "counts") if n_first == 1 else (f"The first {n_first} blocks", "lack", "count")
    )
    note = (
        f"{which} of {where} ({named!r}) {lack} what the others share with the query, and {counts} as the instruction. "
        "If that is wrong, say so: instruction_blocks=0."
    )
    return Split(tuple(found), n_first, None, (note,))


def _but_for_instruction(text: str, layout: Layout, found: Sequence[Place]) -> bool:
    """Whether a layout has the blocks that blank lines give, but for an instruction within the first of them."""
    first, *others = (*layout.demonstrations, layout.query)
    return (
        layout.instruction is not None
        and found[0][0] < first[0] < first[1] == found[0][1]
        and others == list(found[1:])
        and begin_alike(text[slice(*first)], text[slice(*layout.query)])
    )


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
