"""Plain text: whether it is Unicode, its blocks between separators, and the spaces between query and answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

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


def blocks(text: str, separator: str | None = None) -> list[tuple[int, int]]:
    """Find the blocks of a text: the first character of each, and the one after its last, without its line end.

    A block is a run of lines that are not blank, or, with a separator, what stands between two of these, without the
    blank lines and the spaces around it.

    Raises:
        UserError: the separator is empty.
    """
    if separator is not None:
        return _between(text, separator)
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


def _between(text: str, separator: str) -> list[tuple[int, int]]:
    if not separator:
        raise UserError("the separator is empty: give the text between two demonstrations, e.g. a line of ###.")
    found = []
    cursor = 1 if text.startswith("\ufeff") else 0
    for piece in text[cursor:].split(separator):
        visible = piece.strip()
        if visible:
            # The first line keeps its indentation.
            first = piece.rfind("\n", 0, piece.index(visible[0])) + 1
            found.append((cursor + first, cursor + len(piece.rstrip())))
        cursor += len(piece) + len(separator)
    return found


def without_pattern(demonstrations: Sequence[str], query: str) -> tuple[str, list[int]]:
    """Find the words before the answer that most demonstrations share with the query, and which lack them.

    The words are the query's last one with the punctuation after it, or the punctuation alone, such as `Label:` or
    `=`; an answer must follow. Most are half or more, and at least two; without such words the list is empty.
    """
    ending = re.search(r"(\w*)(\W*)$", query.rstrip()[-_LONGEST_CUE:])
    assert ending is not None
    for cue in (ending[0].strip(), ending[2].strip()):
        if not cue:
            continue
        boundary, space = r"(?<!\w)" if cue[0].isalnum() else "", r"\s+" if cue[-1].isalnum() else r"\s*"
        followed = re.compile(boundary + re.escape(cue) + space + r"\S")
        lacking = [i for i, text in enumerate(demonstrations) if not followed.search(text)]
        having = len(demonstrations) - len(lacking)
        if having >= max(2, len(lacking)):
            return cue, lacking
    return "", []


def records(lines: Sequence[str]) -> list[int]:
    r"""Find where demonstrations of several lines each begin, and the query, in lines without blank ones between them.

    The query's last line, such as `Label:`, begins the last line of every demonstration, where an answer follows it.
    All have the same number of lines, two or more, and begin with the same label if the query has one: `Review: a`,
    `Label: b`, `Review: c`, `Label:`. Otherwise, the list is empty.
    """
    cue = lines[-1].strip() if lines else ""
    boundary = r"(?!\w)" if cue[-1:].isalnum() else ""
    answered = re.compile(r"\s*" + re.escape(cue) + boundary + r"\s*\S")
    ends = [i for i, line in enumerate(lines[:-1]) if answered.match(line)] + [len(lines) - 1]
    n = ends[-1] - ends[-2] if len(ends) > 1 else 0
    if n < 2 or ends[0] < n - 1 or any(later - end != n for end, later in pairwise(ends)):
        return []
    begins = [end - n + 1 for end in ends]
    label = re.match(r"\s*\w+\s*[:=>\uff1a]|", lines[begins[-1]])
    assert label is not None
    return begins if all(lines[i].startswith(label[0]) for i in begins) else []


def split_space(space: str) -> tuple[str, str]:
    """Split white space after its last line end: what stays in the text, and what belongs to the answer."""
    cut = space.rfind("\n") + 1
    return space[:cut], space[cut:]


def after_cue(demonstrations: Sequence[str], query: str) -> tuple[str, list[str]] | None:
    r"""Find the white space that follows the query's last words in every demonstration, and what comes after it there.

    The cue is the longest end of the query that every demonstration contains and that starts and ends with whole
    words, such as `"\nOutput:"` or `" is"`. Its last occurrence in a demonstration counts. None without a cue.
    """
    best: tuple[str, list[str]] | None = None
    for length in range(1, min(len(query), _LONGEST_CUE) + 1):
        cue = query[-length:]
        if not all(cue in demonstration for demonstration in demonstrations):
            break
        before = query[-length - 1 : -length] if length < len(query) else ""
        if not cue.strip() or (cue[0].isalnum() and before.isalnum()):
            continue
        spaces, answers = set(), []
        for demonstration in demonstrations:
            rest = demonstration[demonstration.rfind(cue) + length :]
            answer = rest.lstrip()
            joined = cue[-1].isalnum() and rest[:1].isalnum()
            spaces.add(None if not answer or joined else rest[: len(rest) - len(answer)])
            answers.append(answer)
        if len(spaces) == 1 and (space := spaces.pop()) is not None:
            best = space, answers
    return best


def ending(answers: Sequence[str]) -> str:
    """Find what ends every answer without being a part of it, such as `" ."` in `vux .`, `nef .`; often nothing.

    It is what all share at their end, from a whole word on; of answers that are all the same, the punctuation.
    """
    if len(set(answers)) == 1:
        found = re.search(r"\W*$", answers[0])
        assert found is not None
        return found[0] if found.start() else ""
    shortest = min(map(len, answers))
    n = next((n for n in range(shortest) if len({answer[-1 - n] for answer in answers}) > 1), shortest - 1)
    while n and answers[0][-n].isalnum() and any(answer[-n - 1].isalnum() for answer in answers):
        n -= 1
    return answers[0][len(answers[0]) - n :]
