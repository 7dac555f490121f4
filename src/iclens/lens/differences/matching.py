"""Which source of one prompt is which of another: by their text, by their own names, or as an edit of one another."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from iclens.lens.differences.places import unmoved
from iclens.lens.facts import SourceEffect

KEPT, MOVED, EDITED, ADDED, REMOVED = "kept", "moved", "edited", "added", "removed"

ALIKE = 0.5
"""Part of their words that two texts share at least of which one is taken for an edit of the other."""

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Match:
    """A source of prompt A, one of prompt B, or the same in both.

    Attributes:
        a, b: its place in each prompt, from 0; None where it is not there.
        fate: `"kept"`, `"moved"`, `"edited"`, `"added"` or `"removed"`.
        moved: whether it stands elsewhere among those that are in both; an edited one may.
    """

    a: int | None
    b: int | None
    fate: str
    moved: bool


def match(first: Sequence[SourceEffect], second: Sequence[SourceEffect]) -> tuple[Match, ...]:
    """Match the sources of two prompts: those of B in its order, then those that are in A alone.

    The same text is the same source; of texts that occur several times the k-th is the k-th. Of the others, those of
    the same name of their own (documents) are edits of one another, and so are those that share at least half of their
    words, words that all sources have aside. Of those that stay, the fewest count as moved whose moving explains the
    new order.
    """
    pairs = _same_text(first, second)
    edits = _same_name(first, second, pairs)
    edits |= _alike(first, second, pairs | edits)
    both = pairs | edits
    still = unmoved([j for _, j in sorted((i, j) for j, i in both.items())], sorted(both))

    def of(j: int) -> Match:
        if j not in both:
            return Match(None, j, ADDED, moved=False)
        moved = j not in still
        return Match(both[j], j, EDITED if j in edits else MOVED if moved else KEPT, moved)

    left = sorted(set(range(len(first))) - set(both.values()))
    return (*map(of, range(len(second))), *(Match(i, None, REMOVED, moved=False) for i in left))


def _same_text(first: Sequence[SourceEffect], second: Sequence[SourceEffect]) -> dict[int, int]:
    """Place in B → place in A."""
    places: dict[str, deque[int]] = defaultdict(deque)
    for i, one in enumerate(first):
        places[_plain(one.text)].append(i)
    return {j: places[text].popleft() for j, one in enumerate(second) if places[text := _plain(one.text)]}


def _plain(text: str) -> str:
    return " ".join(text.split())


def _same_name(first: Sequence[SourceEffect], second: Sequence[SourceEffect], known: dict[int, int]) -> dict[int, int]:
    """Of those without the same text, those of the same kind and name; names that only count are none."""
    taken = set(known.values())
    named = {(one.kind, one.id): i for i, one in enumerate(first) if i not in taken and _has_name(one)}
    left = [(j, (one.kind, one.id)) for j, one in enumerate(second) if j not in known]
    return {j: named.pop(name) for j, name in left if name in named}


def _has_name(one: SourceEffect) -> bool:
    return bool(one.id) and not one.id.isdigit()


def _alike(first: Sequence[SourceEffect], second: Sequence[SourceEffect], known: dict[int, int]) -> dict[int, int]:
    """Of those that are left, the pairs that share most of their words, nearest first where several share as many."""
    every = [set(_WORD.findall(one.text)) for one in (*first, *second)]
    template = set.intersection(*every)
    taken = set(known.values())
    before = {i: _words(one, template) for i, one in enumerate(first) if i not in taken}
    after = {j: _words(one, template) for j, one in enumerate(second) if j not in known}
    ranked = sorted(
        (-share, abs(i - j), i, j)
        for i, mine in before.items()
        for j, theirs in after.items()
        if first[i].kind == second[j].kind and (share := _shared(mine, theirs)) >= ALIKE
    )
    found: dict[int, int] = {}
    for _, _, i, j in ranked:
        if j not in found and i not in found.values():
            found[j] = i
    return found


def _words(one: SourceEffect, template: set[str]) -> list[str]:
    return [word for word in _WORD.findall(one.text) if word not in template]


def _shared(mine: list[str], theirs: list[str]) -> float:
    """Words in the same order in both, twice, over the words of both."""
    matcher = SequenceMatcher(None, mine, theirs, autojunk=False)
    return matcher.ratio() if matcher.quick_ratio() >= ALIKE else 0.0
