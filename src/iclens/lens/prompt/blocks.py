"""Plain text: whether it is Unicode, its blocks between blank lines, and the spaces between query and answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from iclens.errors import UserError

_LONGEST_CUE = 80  # characters; keeps the search linear when the query repeats a long demonstration


def half_pair(text: str) -> re.Match[str] | None:
    """Find the first half of a surrogate pair, which no tokenizer, terminal or file can take."""
    return re.search("[\ud800-\udfff]", text)


def check_unicode(text: str) -> None:
    """Refuse halves of surrogate pairs, which no tokenizer can read."""
    half = half_pair(text)
    if half:
        raise UserError(
            f"character {half.start()} of the text is half of a surrogate pair ({half[0]!a}), which no "
            "tokenizer can read: give whole Unicode characters."
        )


def blocks(text: str) -> list[tuple[int, int]]:
    """Find the runs of lines that are not blank: first character, and the one after the last, without its line end."""
    found: list[tuple[int, int]] = []
    cursor = 1 if text.startswith("\ufeff") else 0
    joined = False  # whether the line before was of a block
    for line in text[cursor:].split("\n"):
        if line.strip():
            start = found.pop()[0] if joined else cursor
            found.append((start, cursor + len(line) - line.endswith("\r")))
        joined = bool(line.strip())
        cursor += len(line) + 1
    return found


def split_space(space: str) -> tuple[str, str]:
    """Split white space after its last line end: what stays in the text, and what belongs to the answer."""
    cut = space.rfind("\n") + 1
    return space[:cut], space[cut:]


def space_after_cue(demonstrations: Sequence[str], query: str) -> str | None:
    r"""Find the white space that follows the query's last words in every demonstration, or None.

    The cue is the longest end of the query that every demonstration contains and that starts and ends with whole
    words, such as `"\nOutput:"` or `" is"`. Its last occurrence in a demonstration counts.
    """
    best: str | None = None
    for length in range(1, min(len(query), _LONGEST_CUE) + 1):
        cue = query[-length:]
        if not all(cue in demonstration for demonstration in demonstrations):
            break
        before = query[-length - 1 : -length] if length < len(query) else ""
        if not cue.strip() or (cue[0].isalnum() and before.isalnum()):
            continue
        spaces = set()
        for demonstration in demonstrations:
            rest = demonstration[demonstration.rfind(cue) + length :]
            answer = rest.lstrip()
            joined = cue[-1].isalnum() and rest[:1].isalnum()
            spaces.add(None if not answer or joined else rest[: len(rest) - len(answer)])
        if len(spaces) == 1 and None not in spaces:
            best = spaces.pop()
    return best
