"""The statements of a response: its sentences, or its lines, each with the tokens that say it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from iclens.lens.prompt.pieces import sentences_or_lines
from iclens.lens.read.margin import MEASURES
from iclens.lens.read.response import Response


@dataclass(frozen=True)
class Statement:
    """A part of a response.

    Attributes:
        start, end: its characters in the response's text, `end` not included.
        first, last: its tokens, `last` not included.
    """

    start: int
    end: int
    first: int
    last: int


def statements(response: Response) -> tuple[Statement, ...]:
    """Find the statements of a response that is read as a whole by its log-probability; none where it is read in part.

    Every token counts to one statement, so that their log-probabilities and influences sum to the response's: to that
    with which it shares most visible characters; of two, and where it shows none, to the later one. A statement
    without a token of its own is part of the one before it.
    """
    if response.statement is not None or response.measure != MEASURES[0]:
        return ()
    spans = sentences_or_lines(response.text)
    if not spans:
        return ()
    whole = "".join(response.tokens)
    at, numbers = -max(0, whole.find(response.text)), list[int]()
    for text in response.tokens:
        # Of tokens that share a character the first has it.
        again = numbers[-1] if numbers else 0
        numbers.append(_statement_of(response.text, at, at + len(text), spans) if text else again)
        at += len(text)
    found: list[Statement] = []
    for k in sorted(set(numbers)):
        first, last = numbers.index(k), len(numbers) - numbers[::-1].index(k)
        start = spans[k][0] if found else spans[0][0]
        if found:
            found[-1] = Statement(found[-1].start, spans[k - 1][1], found[-1].first, found[-1].last)
        found.append(Statement(start, spans[-1][1], first, last))
    return tuple(found)


def _statement_of(text: str, start: int, end: int, spans: Sequence[tuple[int, int]]) -> int:
    shared = [len("".join(text[max(start, a, 0) : max(0, min(end, b))].split())) for a, b in spans]
    if any(shared):
        return max(range(len(spans)), key=lambda k: (shared[k], k))
    return min(bisect_right([b for _, b in spans], max(0, start)), len(spans) - 1)
