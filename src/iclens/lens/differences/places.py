"""Which entries of an order keep their places in another one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


def unmoved(one: Sequence[int], other: Sequence[int]) -> set[int]:
    """As many entries as there can be that stand in the same order in both: a longest increasing subsequence.

    Source: Fredman 1975, "On computing the length of longest increasing subsequences".
    """
    place = {index: i for i, index in enumerate(one)}
    both = [index for index in other if index in place]
    ends: list[int] = []  # the smallest place at which a sequence of each length ends
    holders: list[int] = []  # which entry that is
    before: dict[int, int | None] = {}
    for index in both:
        at = bisect_left(ends, place[index])
        before[index] = holders[at - 1] if at else None
        ends[at : at + 1], holders[at : at + 1] = [place[index]], [index]
    kept, last = set[int](), holders[-1] if holders else None
    while last is not None:
        kept.add(last)
        last = before[last]
    return kept
