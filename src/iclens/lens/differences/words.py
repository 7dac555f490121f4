"""What a comparison says, in words: what differs, what it did to the answer, and through which sources."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from iclens.display_text import one_line, percent, plain, signed
from iclens.lens.citations import OPPOSES, carrying
from iclens.lens.differences.matching import ADDED, EDITED, MOVED, REMOVED
from iclens.lens.score_names import ScoreName

if TYPE_CHECKING:
    from iclens.lens.differences.comparison import AnswerPair, Comparison, SourcePair
    from iclens.lens.explanation import Explanation

_MOST_NAMED = 4
_MOST = 60
"""Characters of an answer or a name in a sentence."""


def conclude(found: Comparison) -> tuple[str, ...]:
    """Say what differs, how the answer and the explained number changed, and which sources changed most."""
    if not found.exact:
        which = " and ".join(name for name, one in (("A", found.a), ("B", found.b)) if not one.exact)
        return (f"Do not trust these numbers: checks of {which} against the model do not hold.",)
    return (*_differs(found), *_answer(found), *_margin(found), *_sources(found), *_grounding(found))


def _differs(found: Comparison) -> Iterator[str]:
    if not found.differs:
        yield "Nothing differs: both explain the same question of the same model."
        return
    said = []
    if "model" in found.differs:
        names = [one_line(one.model.name, _MOST) for one in (found.a, found.b)]
        same = names[0] == names[1]
        said.append(
            f"the precision ({found.a.model.dtype}, {found.b.model.dtype})"
            if same
            else f"the model ({names[0]}, {names[1]})"
        )
    for mark in (MOVED, ADDED, REMOVED, EDITED, f"{EDITED}, {MOVED}"):
        those = [one for one in found.sources if one.mark == mark]
        if those:
            said.append(f"{_named(those)} {'was' if len(those) == 1 else 'were'} {mark.replace(',', ' and')}")
    said += [f"the {what} differ{'' if what.endswith('s') else 's'}" for what in found.differs if what in _OTHERS]
    yield f"What differs: {'; '.join(said)}."


_OTHERS = ("instruction", "query", "candidate answers", "response")


def _answer(found: Comparison) -> Iterator[str]:
    if found.a.response is not None:
        yield from _response(found)
        return
    first, second = _likeliest(found, "a"), _likeliest(found, "b")
    if first.text == second.text:
        yield f"The answer stays {_quoted(first)}: {_chance(first.a)} in A, {_chance(first.b)} in B."
        return
    turned = f"The answer turns from {_quoted(first)} to {_quoted(second)}"
    was, now = (f"{_quoted(one)} has {_chance(one.a)} in A, {_chance(one.b)} in B" for one in (first, second))
    yield f"{turned}: {was}; {now}."


def _response(found: Comparison) -> Iterator[str]:
    if found.incomparable is not None:
        return
    both = [_each(one) for one in (found.a, found.b)]
    yield f"The response has {percent(both[0])} a token in A and {percent(both[1])} in B, in the geometric mean."


def _each(found: Explanation) -> float:
    assert found.response is not None
    return math.exp(found.answer_log_probability / max(1, found.response.last - found.response.first))


def _likeliest(found: Comparison, which: str) -> AnswerPair:
    return max(found.answers, key=lambda one: -1.0 if getattr(one, which) is None else float(getattr(one, which)))


def _quoted(one: AnswerPair) -> str:
    # A next token stands in its own quotes, which show its white space.
    text = one_line(one.text, _MOST)
    return text if text.startswith(("'", '"')) else repr(text)


def _chance(value: float | None) -> str:
    return "less than what is listed" if value is None else percent(value)


def _margin(found: Comparison) -> Iterator[str]:
    if found.incomparable is not None:
        yield found.incomparable
        return
    change = found.margin_b - found.margin_a
    of = f"of {one_line(found.a.answer.strip(), _MOST)!r} " if found.a.response is None else ""
    same = abs(change) <= 0.0005
    if same:
        yield f"The {found.a.quantity} {of}stays at {signed(found.margin_b)} nats."
        return
    verb, by = "rises" if change > 0 else "falls", plain(abs(change))
    yield f"The {found.a.quantity} {of}{verb} by {by} nats, from {signed(found.margin_a)} to {signed(found.margin_b)}."


def _sources(found: Comparison) -> Iterator[str]:
    if not found.scores:
        return
    name = found.scores[0]
    known = {k: one.scores[name].change for k, one in enumerate(found.sources)}
    changes = {k: value for k, value in known.items() if value is not None}
    few, share = carrying({k: abs(value) for k, value in changes.items()})
    by = f"by {ScoreName.of(name).long}"
    if not few:
        yield f"No {found.noun} changes what it does, {by}."
        return
    if len(few) <= min(_MOST_NAMED, max(1, len(changes) // 2)):
        each = [f"{one_line(found.sources[k].shown, _MOST)} ({_pair(found.sources[k], name)})" for k in few]
        yield f"Most of what changes in the sources is {_listed(each)}: {percent(share)} of all changes, {by}."
    else:
        told = f"{percent(share)} of all changes are of {len(few)} of {len(changes)}"
        yield f"No few {found.noun}s make the difference: {told}, {by}."
    values = [value for one in found.sources for value in (one.scores[name].a, one.scores[name].b)]
    most = max((abs(value) for value in values if value is not None), default=0.0)
    turned = [one for one in found.sources if _turns(one, name, OPPOSES * most)]
    for side, before, now in ((1, "opposed", "support"), (-1, "supported", "oppose")):
        those = [one for one in turned if (one.scores[name].b or 0.0) * side > 0]
        if those:
            yield f"{_named(those)} {before} the answer in A and {now}{'s' * (len(those) == 1)} it in B."


def _turns(one: SourcePair, name: str, least: float) -> bool:
    """Whether a source of both changes its side, and is not small on the new one."""
    before, after = one.scores[name].a, one.scores[name].b
    if one.a is None or one.b is None or before is None or after is None:
        return False
    return before * after < 0 and abs(after) >= least and abs(before) >= least / 2


def _grounding(found: Comparison) -> Iterator[str]:
    first, second = found.a.grounding, found.b.grounding
    if first is not None and second is not None and found.incomparable is None:
        shares = f"{percent(first.share)} of its probability in A and {percent(second.share)} in B"
        yield f"The {found.noun}s give the answer {shares}."


def _pair(one: SourcePair, name: str) -> str:
    if one.fate == ADDED:
        return f"{signed(one.scores[name].b)}, added"
    if one.fate == REMOVED:
        return f"{signed(one.scores[name].a)}, removed"
    return f"{signed(one.scores[name].a)} → {signed(one.scores[name].b)}"


def _named(those: Sequence[SourcePair]) -> str:
    more = f" and {len(those) - _MOST_NAMED} more" if len(those) > _MOST_NAMED else ""
    names = [one_line(one.shown, _MOST) for one in those[:_MOST_NAMED]]
    return ", ".join(names) + more if more else _listed(names)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
