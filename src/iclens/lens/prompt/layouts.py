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

from iclens.display_text import one_line
from iclens.lens.prompt.blocks import blocks, records, without_pattern

Place = tuple[int, int]
"""The first character of a block, and the one after its last."""

_TAG = re.compile(r"<(/?)([A-Za-z][\w.-]*?)\d*(?:\s[^<>]*)?>")
_SHOT = re.compile(r"(?:\w+[_-])?(example|shot|sample|demo|demonstration)s?", re.IGNORECASE)
_NUMBERED = re.compile(r"\s*(?:\d+[.)]|[-*\u2022])\s")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
# Fences of code and of quotations stand in pairs inside a block.
_MARK = re.compile(r"[ \t]*(([^\w\s`\"'])\2+)[ \t]*")
# The last colon is that of Chinese and Japanese; emphasis and headings may stand around.
_LABEL = re.compile(r"(?:[^\w\s]{1,4}[ \t]*)?[^\W_][\w -]{0,30}?\s*(?:[:=>\uff1a]|\)|->)[*_]{0,2}")
_NUMBER = re.compile(r"\d+")
_LONGEST = 60
"""Characters of a last line that are looked for in demonstrations."""


@dataclass(frozen=True)
class Layout:
    """Where the blocks of a text lie.

    Attributes:
        instruction: what stands before the demonstrations, or None.
        demonstrations: their places.
        query: the place of the query.
        told: what was taken for a demonstration, as a clause of a note.
    """

    instruction: Place | None
    demonstrations: tuple[Place, ...]
    query: Place
    told: str

    @property
    def blocks(self) -> list[Place]:
        """All of them in the order of the text."""
        return [*([self.instruction] if self.instruction else []), *self.demonstrations, self.query]


def elements(text: str) -> Layout | None:
    """Find two or more elements of one name with nothing but comments between them: `<example>…</example>`.

    The query follows them. Elements by other names than "example", "shot", "sample" and "demonstration" are
    demonstrations only where the query's last words stand before an answer in each, so that documents are none.
    """
    # A single one is the innermost: several may stand in another.
    named = sorted(
        _elements(text).items(), key=lambda one: (len(one[1]) < 2, sum(end - start for start, end in one[1]))
    )
    for name, found in named:
        if len(found) < 2 and not (found and _SHOT.fullmatch(name) and not name.endswith("s")):
            continue
        if any(_COMMENT.sub("", text[end:start]).strip() for (_, end), (start, _) in pairwise(found)):
            continue
        query = _visible(text, found[-1][1], len(text))
        if query is None:
            continue
        shots = [text[slice(*one)] for one in found]
        if _SHOT.fullmatch(name) or any(
            cue.word and all(map(cue.answered, shots)) for cue in _cues(text[slice(*query)])
        ):
            instruction = _visible(text, 0, found[0][0])
            told = f"every <{name}> counts as a demonstration{_after(instruction)}, and what follows as the query"
            return Layout(instruction, tuple(found), query, told)
    return None


def _elements(text: str) -> dict[str, list[Place]]:
    """The elements of each name, from the last start tag before an end tag to this.

    Names of examples count as one, `<example1>` and `<good_example>`.
    """
    opened: dict[str, int] = {}
    found: dict[str, list[Place]] = {}
    for tag in _TAG.finditer(text):
        shot = _SHOT.fullmatch(tag[2])
        name = tag[2] if shot is None or tag[2].endswith("s") else shot[1]
        if not tag[1]:
            opened[name] = tag.start()
            found.setdefault(name, [])
        elif name in opened:
            found[name].append((opened.pop(name), tag.end()))
    return found


def between_marks(text: str) -> Layout | None:
    """Find blocks between lines of one repeated sign (`---`) that are alike; first ones may be an instruction."""
    lines = [text[slice(*place)] for place in _lines(text)]
    end = "\r\n" if "\r\n" in text else "\n"
    for mark in dict.fromkeys(found[1] for found in map(_MARK.fullmatch, lines) if found):
        separator = f"{end}{mark}{end}"
        found = blocks(text, separator)
        first = alike([text[slice(*place)] for place in found])
        if first is None:
            continue
        instruction = (found[0][0], found[first - 1][1]) if first else None
        inside = [(found[0][0] + one, found[0][0] + last) for one, last in blocks(text[slice(*found[0])])]
        n_inside = 0 if first else _within_first(text, inside, found[-1])
        if n_inside:
            # An instruction stands before the first demonstration without a mark between them.
            instruction, found[0] = (found[0][0], inside[n_inside - 1][1]), (inside[n_inside][0], found[0][1])
        told = f"what stands between lines of {mark!r} counts as a demonstration{_after(instruction)}"
        return Layout(instruction, tuple(found[first:-1]), found[-1], f"{told}, and the last as the query")
    return None


def _within_first(text: str, inside: Sequence[Place], query: Place) -> int:
    """How many of the blocks within the first piece are an instruction."""
    shown = [text[slice(*place)] for place in inside]
    alike_to_query = [begin_alike(one, text[slice(*query)]) for one in shown]
    return alike_to_query.index(True) if True in alike_to_query else alike([*shown, text[slice(*query)]]) or 0


def of_several_lines(text: str) -> Layout | None:
    """Find demonstrations of the same number of lines each with nothing between them, see `records`."""
    places = _lines(text)
    begins = records([text[slice(*place)] for place in places])
    if not begins:
        return None
    n = begins[1] - begins[0]
    *shots, query = [(places[i][0], places[i + n - 1][1]) for i in begins]
    instruction = _visible(text, 0, shots[0][0])
    told = f"every {n} lines count as a demonstration{_after(instruction)}, and the last {n} as the query"
    return Layout(instruction, tuple(shots), query, told)


def of_one_line(text: str) -> Layout | None:
    """Find lines that are alike, `cat -> chat`, the last of them the query; first lines may be an instruction.

    Where blank lines stand between some, a colon suffices in lists alone: it stands in lines of any kind.
    """
    places = _lines(text)
    lines = [text[slice(*place)] for place in places]
    cue, odd = without_pattern(lines[:-1], lines[-1]) if len(lines) > 2 else ("", [])
    if not cue or odd != list(range(len(odd))):
        return None
    listed = all(map(_NUMBERED.match, lines[len(odd) :]))
    if cue[-1] in ":\uff1a" and not listed and len(blocks(text)) > 1:
        return None
    instruction = _visible(text, 0, places[len(odd)][0])
    told = f"each line with {cue!r} counts as a demonstration{_after(instruction)}, and the last line as the query"
    return Layout(instruction, tuple(places[len(odd) : -1]), places[-1], told)


def has_mark(block: str) -> bool:
    """Whether a line of one repeated sign stands in a block."""
    return any(_MARK.fullmatch(line.rstrip("\r")) for line in block.split("\n"))


def begin_alike(one: str, other: str) -> bool:
    """Whether two blocks begin with the same label or line."""
    first, second = (_key(block.strip().split("\n", 1)[0].strip()) for block in (one, other))
    return first == second


def labelled(text: str) -> Layout | None:
    r"""Find blocks that begin with the same label or line, and hold the query's last line once, an answer after it.

    `Q: a`, `so long`, `A: b`, `Q: c`, `A:`: blocks may have any number of lines, blank ones among them; numbers in
    labels may differ. The label is the one farthest before the query's last line, so that nothing of a demonstration is
    left out. Where no other demonstration has a blank line in its answer, what stands after one in the last belongs to
    the query.
    """
    places = _lines(text)
    lines = [text[start:end].strip() for start, end in places]
    cue = lines[-1] if lines else ""
    if not re.search(r"\W$|^\W", cue):
        return None
    asks = re.compile(_pattern(cue))
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
    moved = ""
    if len(last) > 1 and answers[:-2] and all(len(one) == 1 for one in answers[:-2]):
        found[-2], query = (found[-2][0], last[0][1]), (last[1][0], query[1])
        moved = f", with {one_line(text[last[1][0] : last[-1][1]], 40)!r} before it"
    instruction = _visible(text, 0, found[0][0])
    told = f"a demonstration begins at each {label!r}{_after(instruction)}, and the query at the last{moved}"
    return Layout(instruction, tuple(found[:-1]), query, told)


@dataclass(frozen=True)
class _Cue:
    """Words before the answer: whether there are letters in them, whether they begin a line, and where they stand."""

    word: bool
    line: bool
    place: re.Pattern[str]

    def answered(self, shot: str) -> bool:
        return self.place.search(shot) is not None


def _cues(query: str) -> list[_Cue]:
    """What a query ends with, the most telling first: its last line, its last word, the signs behind that."""
    last = query.rstrip().rsplit("\n", 1)[-1].strip()
    found = []
    if last and len(last) <= _LONGEST and (_LABEL.fullmatch(last) or not last[0].isalnum()):
        place = re.compile(rf"^\s*{_pattern(last)}\s*\S", re.MULTILINE)
        found.append(_Cue(_has_letter(last), True, place))
    ending = re.search(r"(\w*)(\W*)$", last[-_LONGEST:])
    assert ending is not None
    for cue in (ending[0].strip(), ending[2].strip()):
        # A number is a part of the query.
        if cue and not re.fullmatch(r"[.,!?]+|\d.*", cue):
            start, end = r"(?<!\w)" if cue[0].isalnum() else "", r"\s+" if cue[-1].isalnum() else r"\s*"
            found.append(_Cue(_has_letter(cue), False, re.compile(start + re.escape(cue) + end + r"\S")))
    return found


def _pattern(line: str) -> str:
    """Write what matches a line's own words, whatever the numbers in it are."""
    return _NUMBER.sub(r"\\d+", re.escape(line)) + (r"(?!\w)" if line[-1].isalnum() else "")


def _has_letter(text: str) -> bool:
    return re.search(r"[^\W\d_]", text) is not None


def alike(shown: Sequence[str], *, by_signs: bool = True) -> int | None:
    """Count the first blocks that are an instruction where the others are alike, the last being the query.

    Demonstrations are alike if the query's last line, last word or last signs stand before an answer in each, or if
    they begin with the label that the query begins with. None where they are not, or where a block that would be an
    instruction begins as they do. Without `by_signs` signs alone do not suffice.
    """
    *shots, query = shown
    begins = _LABEL.match(query.lstrip())
    key = _key(begins[0]) if begins else ""
    as_query = [bool(key) and _key(shot.lstrip().split("\n", 1)[0]) == key for shot in shots]
    n_other = _first_of_all(as_query) or 0
    in_some = False
    cues = _cues(query)
    if cues and cues[0].line and cues[0].answered(query):
        return None  # The last block holds demonstrations itself.
    for cue in cues:
        having = [cue.answered(shot) for shot in shots]
        n = _first_of_all(having)
        # Signs that stand everywhere say nothing where words stand before some answers.
        if n is None or not (cue.word or (by_signs and not in_some and (n < 2 or len(shots) >= 2 * n))):
            in_some |= any(having)
            continue
        if n and not cue.line and any(cues[-1].answered(shot) for shot in shots[:n]):
            # The word is a part of the query, as in `red stone ->`.
            continue
        # An instruction may quote the words; it has no line that begins with them and an answer.
        return None if any(as_query[:n]) else (n if cue.line else max(n, n_other))
    return _first_of_all(as_query)


def _first_of_all(having: Sequence[bool]) -> int | None:
    """Where the first stands that has something, if all after it have it too."""
    n = list(having).index(True) if True in having else None
    return n if n is not None and all(having[n:]) else None


def _lines(text: str) -> list[Place]:
    """Where each line that is not blank lies, with its spaces but without its line end."""
    first = int(text.startswith("\ufeff"))
    lines = re.compile(r"[^\n]+").finditer(text, first)
    return [(one.start(), one.end() - one[0].endswith("\r")) for one in lines if one[0].strip()]


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
