r"""How texts that people write lay out their demonstrations, where no separator is named.

Besides blocks between blank lines these are elements (`<example>…</example>`), blocks between lines of one mark
(`---`), and blocks that begin with the same label or line (`Review:`, `### Question`, `<|im_start|>user`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from iclens.lens.prompt.blocks import after_cue, blocks, without_pattern

Place = tuple[int, int]
"""The first character of a block, and the one after its last."""

_TAG = re.compile(r"<(/?)([A-Za-z][\w.-]*)(?:\s[^<>]*)?>")
_SHOT = re.compile(r"examples?|shots?|samples?|demos?|demonstrations?", re.IGNORECASE)
_MARK = re.compile(r"[ \t]*(([^\w\s])\2{2,})[ \t\r]*")
_LABEL = re.compile(r"[^\W_][\w -]{0,30}?\s*(?:[:=>\uff1a]|\)|->)")  # the last colon is that of Chinese and Japanese
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Layout:
    """Where the blocks of a text lie.

    Attributes:
        instruction: what stands before the demonstrations, or None.
        demonstrations: their places.
        query: the place of the query.
        told: what was taken for a demonstration, as a clause of a note.
        separator: the line that stands between them, or None.
    """

    instruction: Place | None
    demonstrations: tuple[Place, ...]
    query: Place
    told: str
    separator: str | None = None

    @property
    def blocks(self) -> list[Place]:
        """All of them in the order of the text."""
        return [*([self.instruction] if self.instruction else []), *self.demonstrations, self.query]


def elements(text: str) -> Layout | None:
    """Find two or more elements of one name with nothing between them: `<example>…</example>` and the like.

    The query follows them. Elements by other names than "example", "shot", "sample" and "demonstration" are
    demonstrations only where the query's last words stand before an answer in each, so that documents are none.
    """
    for name, found in _elements(text).items():
        if len(found) < 2 or any(text[end:start].strip() for (_, end), (start, _) in pairwise(found)):
            continue
        query = _visible(text, found[-1][1], len(text))
        if query is None:
            continue
        shots, asked = [text[slice(*one)] for one in found], text[slice(*query)].rstrip()
        if _SHOT.fullmatch(name) or after_cue(shots, asked):
            instruction = _visible(text, 0, found[0][0])
            told = f"every <{name}> counts as a demonstration{_after(instruction)}, and what follows as the query"
            return Layout(instruction, tuple(found), query, told)
    return None


def _elements(text: str) -> dict[str, list[Place]]:
    """The elements of each name, from a start tag to the next end tag, by where the first of a name begins."""
    opened: dict[str, int] = {}
    found: dict[str, list[Place]] = {}
    for tag in _TAG.finditer(text):
        name = tag[2]
        if not tag[1]:
            opened.setdefault(name, tag.start())
            found.setdefault(name, [])
        elif name in opened:
            found[name].append((opened.pop(name), tag.end()))
    return found


def between_marks(text: str) -> Layout | None:
    """Find blocks between lines of one repeated sign, `---` or `###`, if the query's last words stand in all of them.

    First blocks without these words are the instruction.
    """
    lines = [text[slice(*place)] for place in _lines(text)]
    for mark in dict.fromkeys(found[1] for found in map(_MARK.fullmatch, lines) if found):
        separator = f"\n{mark}\n"
        found = blocks(text, separator)
        shown = [text[start:end] for start, end in found]
        first = lacking(shown)
        if len(found) < 2 or first is None or (len(found) == 2 and not after_cue(shown[:1], shown[1])):
            continue
        instruction = (found[0][0], found[first - 1][1]) if first else None
        start, end = found[0]
        inside = [(start + one, start + last) for one, last in blocks(text[start:end])]
        n_inside = (lacking([*(text[slice(*one)] for one in inside), shown[-1]]) or 0) if first == 0 else 0
        if n_inside:
            # An instruction stands before the first demonstration without a mark between them.
            instruction, found[0] = (start, inside[n_inside - 1][1]), (inside[n_inside][0], end)
        told = f"what stands between lines of {mark!r} counts as a demonstration{_after(instruction)}, and the last as "
        told += "the query"
        return Layout(instruction, tuple(found[first:-1]), found[-1], told, None if n_inside else separator)
    return None


def labelled(text: str) -> Layout | None:
    r"""Find blocks that begin with the same label or line, and hold the query's last line once, an answer after it.

    `Q: a`, `so long`, `A: b`, `Q: c`, `A:`: blocks may have any number of lines, blank ones among them; numbers in
    labels may differ. The label is the one farthest before the query's last line, so that nothing of a demonstration is
    left out. Where no other demonstration has a blank line in its answer, what stands after one in the last belongs to
    the query.
    """
    places = [place for place in _lines(text) if text[slice(*place)].strip()]
    lines = [text[start:end].strip() for start, end in places]
    cue = lines[-1] if lines else ""
    if not re.search(r"\W$|^\W", cue):
        return None
    asks = re.compile(_NUMBER.sub(r"\\d+", re.escape(cue)) + (r"(?!\w)" if cue[-1].isalnum() else ""))
    ends = [i for i, line in enumerate(lines) if asks.match(line)]
    begins_of: dict[str, list[int]] = defaultdict(list)
    for i, line in enumerate(lines):
        begins_of[_key(line)].append(i)
    for first in range(ends[-2] + 1 if len(ends) > 1 else len(lines), len(lines) - 1):
        begins = begins_of[_key(lines[first])]
        if begins[-1] != first or len(begins) != len(ends):
            continue
        bounds = list(zip(begins, ends, [*begins[1:], len(lines)], strict=True))
        answered = all(asks.sub("", lines[end], count=1) or end + 1 < after for _, end, after in bounds[:-1])
        if answered and all(begin < end < after for begin, end, after in bounds):
            return _of_lines(text, places, bounds, _label(lines[first]))
    return None


def _of_lines(text: str, places: Sequence[Place], bounds: Sequence[tuple[int, int, int]], label: str) -> Layout:
    """Make blocks of lines: where each begins, its line with the query's last words, and where the next begins."""
    found = [(places[begin][0], places[after - 1][1]) for begin, _, after in bounds]

    def parts(place: Place, end: int) -> list[Place]:
        """What blank lines divide the answer into."""
        start = places[end][0]
        return [(start + one, start + last) for one, last in blocks(text[start : place[1]])]

    answers = [parts(place, end) for place, (_, end, _) in zip(found, bounds, strict=True)]
    last, query = answers[-2], found[-1]
    if len(last) > 1 and all(len(one) == 1 for one in answers[:-2]):
        found[-2], query = (found[-2][0], last[0][1]), (last[1][0], query[1])
    instruction = _visible(text, 0, found[0][0])
    told = f"a demonstration begins at each {label!r}{_after(instruction)}, and the query at the last"
    return Layout(instruction, tuple(found[:-1]), query, told)


def lacking(shown: Sequence[str]) -> int | None:
    """Count the first blocks without the words before the answer that all others have; None where others lack them too.

    The last block is the query. One demonstration suffices behind one block that lacks the words if these are a label,
    such as `Sentiment:`.
    """
    if len(shown) == 3:
        label = _LABEL.fullmatch(shown[-1].rstrip().rsplit("\n", 1)[-1].strip())
        followed = label and re.compile(r"(?<!\w)" + re.escape(label[0]) + r"\s*\S")
        if followed and followed.search(shown[1]) and not followed.search(shown[0]):
            return 1
    if len(shown) < 3:
        return 0
    cue, odd = without_pattern(shown[:-1], shown[-1])
    return len(odd) if cue and odd == list(range(len(odd))) else None


def _lines(text: str) -> list[Place]:
    """Where each line lies, with its spaces but without its line end."""
    found = re.finditer(r"[^\n]+", text.removeprefix("\ufeff"))
    shift = text.startswith("\ufeff")
    return [(one.start() + shift, one.end() + shift - one[0].endswith("\r")) for one in found]


def _label(line: str) -> str:
    found = _LABEL.match(line)
    return found[0] if found else line


def _key(line: str) -> str:
    return _NUMBER.sub("0", _label(line))


def _visible(text: str, start: int, end: int) -> Place | None:
    found = blocks(text[start:end])
    return (start + found[0][0], start + found[-1][1]) if found else None


def _after(instruction: Place | None) -> str:
    return ", after an instruction" if instruction else ""
