"""What the sources of a prompt are called, and where the text of one ends when it is deleted."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

DEMONSTRATION = "demonstration"
DOCUMENT = "document"
BLANK_LINE = "\n\n"

_ONLY = ("instruction", "tools", "tool calls", "thinking")
"""Kinds of which a message or a prompt has one."""


@dataclass(frozen=True, order=True)
class Span:
    """The characters `start` to `end` (not included) of a text."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """Return the characters of `text` in this span."""
        return text[self.start : self.end]

    def shifted(self, by: int) -> Span:
        """Return the span moved by `by` characters."""
        return Span(self.start + by, self.end + by)


@dataclass(frozen=True)
class SourceName:
    """What a source is called: `document d3`, `message 2 (system)`, `message 2 (system), line 4`.

    Attributes:
        kind: `"demonstration"`, `"document"`, `"message"`, `"sentence"`, `"span"` and so on.
        id: its number from 0, or the caller's own name for it; empty where there is one of its kind.
        remark: what stands after it in brackets, such as the role of a message.
        of: the source that it is a part of, as it is printed; empty where it is none.
    """

    kind: str = DEMONSTRATION
    id: str = ""
    remark: str = ""
    of: str = ""

    def __str__(self) -> str:
        own = " ".join(filter(None, (self.kind, self.id, self.remark and f"({self.remark})")))
        return ", ".join(filter(None, (self.of, own)))


def numbered(kind: str, n: int, of: str = "") -> tuple[SourceName, ...]:
    """Names by number, from 0."""
    return tuple(SourceName(kind, str(i), of=of) for i in range(n))


def noun(kinds: Collection[str]) -> str:
    """Return what sources of these kinds are called: by their kind where it is one of many, else `"source"`."""
    (kind,) = set(kinds) if len(set(kinds)) == 1 else ("source",)
    return "source" if kind in _ONLY else kind


def cuts(text: str, spans: Sequence[tuple[int, int]], between: str = "") -> list[tuple[int, int]]:
    """Find the characters that go when the text in some spans is deleted, in order.

    Spans with nothing but a gap between them go as one. Of the gaps before and after, the one with more line ends, or
    else the longer, stays. A gap is white space, and `between`, which stands between sources.
    """
    gap = _gap(between)
    runs: list[list[int]] = []
    for start, end in sorted(spans):
        if runs and gap.fullmatch(text, runs[-1][1], start):
            runs[-1][1] = end
        else:
            runs.append([start, end])
    found, last = [], 0
    for start, end in runs:
        following = after_gap(text, end, between)
        head = text[last:start]
        before = len(head) - _without_gap(head, between)
        longer = _size(text[start - before : start]) >= _size(text[end:following])
        # What begins the text leaves no gap at its place.
        cut = (start, following) if longer or start == before else (start - before, end)
        found.append(cut)
        last = end
    return found


def after_gap(text: str, start: int, between: str = "") -> int:
    """Find the end of the gap that begins at a character: that character, where there is none."""
    found = _gap(between).match(text, start)
    assert found is not None
    return found.end()


def _gap(between: str) -> re.Pattern[str]:
    return re.compile(rf"(?:\s|{re.escape(between)})*" if between else r"\s*")


def _without_gap(text: str, between: str) -> int:
    """Return the length of a text without the gap at its end."""
    n = len(text)
    while True:
        stripped = len(text[:n].rstrip())
        if between and text[:stripped].endswith(between):
            stripped -= len(between)
        if stripped == n:
            return n
        n = stripped


def _size(gap: str) -> tuple[int, int]:
    return gap.count("\n"), len(gap)
