"""Comparing two explanations: what may be compared, and the numbers of both side by side."""

from __future__ import annotations

from collections.abc import Iterator

from iclens.display_text import one_line
from iclens.errors import UserError
from iclens.lens.differences.comparison import AnswerPair, Comparison, ScorePair, SourcePair
from iclens.lens.differences.matching import ADDED, EDITED, REMOVED, Match, match
from iclens.lens.explanation import Explanation
from iclens.lens.facts import METHODS, SourceEffect, total

_MOST_TOKENS = 5
"""Next tokens of either explanation that are listed where there are no candidates."""

_BY_EDGES = ("influence_deletions", "influence_knock_out", "influence", "shares", "knock_out")
"""Scores that depend on which attention edges are weighted or cut."""


def compare(a: Explanation, b: Explanation) -> Comparison:
    """Compare two explanations: of two prompts, two orders of a prompt, or two models.

    Sources are matched by their text. Scores and the explained number are compared where both explanations read the
    same: the same answer over the same alternatives, or the same response in the same way. Where two candidates were
    given and B explains the other one, B's numbers are turned to A's answer, which only changes their sign.

    Args:
        a: the first explanation.
        b: the second one; changes are B less A.

    Raises:
        UserError: one is no explanation, one explains a response and the other an answer, or no source is in both.
    """
    for name, one in (("first", a), ("second", b)):
        if not isinstance(one, Explanation):
            raise UserError(
                f"the {name} argument is no explanation but {type(one).__name__}: give what iclens.explain or "
                "Explanation.load returned."
            )
    if (a.response is None) != (b.response is None):
        which = ("first", "second") if b.response is None else ("second", "first")
        raise UserError(
            f"the {which[0]} explanation is of a response and the {which[1]} of an answer, which are read in different "
            "ways: explain both with a response, or both with candidate answers."
        )
    matches = match(a.sources, b.sources)
    if all(one.a is None or one.b is None for one in matches):
        raise UserError(
            f"no source is in both explanations ({len(a.sources)} {a.noun}s and {len(b.sources)} {b.noun}s, matched by "
            "their text): compare prompts that share some, split in the same way."
        )
    flipped = _is_flipped(a, b)
    reason = None if flipped else _incomparable(a, b)
    scores = () if reason is not None else _common(a, b, flipped)
    if reason is None and not scores:
        both = f"{', '.join(a.scores)} in A, {', '.join(b.scores)} in B"
        reason = f"No score was computed for both ({both}): explain both with the same --scores."
    sign = -1.0 if flipped else 1.0
    return Comparison(
        a,
        b,
        tuple(_differs(a, b, matches)),
        _answers(a, b),
        tuple(_source(a, b, one, scores, sign) for one in matches),
        scores,
        reason,
        flipped,
        a.margin,
        sign * b.margin if reason is None else b.margin,
        dict(_rest(a, b, scores, sign)),
        tuple(_notes(a, b, scores, flipped)),
    )


def _texts(found: Explanation) -> set[str]:
    return {one.text.strip() for one in found.candidates}


def _is_flipped(a: Explanation, b: Explanation) -> bool:
    """Whether both explain the same two candidates, but each the other one: one margin is then minus the other's."""
    return (
        a.response is None and len(_texts(a)) == 2 and _texts(a) == _texts(b) and a.answer.strip() != b.answer.strip()
    )


def _incomparable(a: Explanation, b: Explanation) -> str | None:
    """Why the explained numbers are not of the same thing; None where they are."""
    if a.response is not None and b.response is not None:
        if a.answer.strip() != b.answer.strip() or a.response.text.strip() != b.response.text.strip():
            return "The responses differ, and each log-probability is of its own text: give both the same --response."
        if (a.response.foil or "").strip() != (b.response.foil or "").strip():
            return "The responses are compared with different ones: give both the same --foil."
        if a.response.measure != b.response.measure:
            return f"Different numbers are read, the {a.quantity} and the {b.quantity}: give both the same --measure."
        return None
    if len(a.candidates) < 2 or len(b.candidates) < 2:
        if a.margin_definition == b.margin_definition:
            return None
        return (
            "The answers are explained against the likeliest other tokens, which differ between the two: give both the "
            "same --answers to compare scores."
        )
    if _texts(a) != _texts(b):
        return "The candidate answers differ: give both the same --answers to compare scores."
    if a.answer.strip() != b.answer.strip():
        return (
            f"A explains {_said(a)} and B {_said(b)}, each against the others: explain both with "
            f"--answer {a.answer.strip()!r} to compare scores."
        )
    return None


def _said(found: Explanation) -> str:
    return repr(one_line(found.answer.strip(), 60))


def _common(a: Explanation, b: Explanation, flipped: bool) -> tuple[str, ...]:
    """The scores of both; where signs are turned, those in nats of the margin alone."""
    both = [name for name in a.scores if name in b.scores and (not flipped or name in METHODS)]
    return tuple(name for name in both if a.edges == b.edges or name not in _BY_EDGES)


def _differs(a: Explanation, b: Explanation, matches: tuple[Match, ...]) -> Iterator[str]:
    if (a.model.name, a.model.dtype) != (b.model.name, b.model.dtype):
        yield "model"
    if any(one.fate in (ADDED, REMOVED, EDITED) for one in matches):
        yield f"{a.noun if a.noun == b.noun else 'source'}s"
    if any(one.moved for one in matches):
        yield "order"
    for role in ("instruction", "query"):
        if _of_role(a, role) != _of_role(b, role):
            yield role
    if a.response is None and _texts(a) != _texts(b):
        yield "candidate answers"
    if a.response is not None and b.response is not None and a.response.text.strip() != b.response.text.strip():
        yield "response"


def _of_role(found: Explanation, role: str) -> str:
    """What stands in a part of the prompt; white space aside, and the first token of the text, which is none's."""
    return "".join("".join(token.text for token in found.tokens if token.role == role).split())


def _answers(a: Explanation, b: Explanation) -> tuple[AnswerPair, ...]:
    """The candidates of both with their probabilities, or the likeliest next tokens."""
    if a.response is not None:
        return ()
    if a.candidates and b.candidates:
        given = [{one.text.strip(): one.probability for one in found.candidates} for found in (a, b)]
    else:
        given = [{repr(one.text): one.probability for one in found.next_tokens} for found in (a, b)]
    most = None if a.candidates and b.candidates else _MOST_TOKENS
    texts = dict.fromkeys([*list(given[0])[:most], *list(given[1])[:most]])
    return tuple(AnswerPair(text, given[0].get(text), given[1].get(text)) for text in texts)


def _source(a: Explanation, b: Explanation, one: Match, scores: tuple[str, ...], sign: float) -> SourcePair:
    before = None if one.a is None else a.sources[one.a]
    after = None if one.b is None else b.sources[one.b]
    shown = after or before
    assert shown is not None
    pairs = {name: ScorePair(_value(before, name), _value(after, name, sign)) for name in scores}
    was = None if before is None else before.shown
    other = before.text if before is not None and one.fate == EDITED else None
    return SourcePair(one.a, one.b, one.fate, one.moved, shown.text, other, shown.shown, was, pairs)


def _value(effect: SourceEffect | None, name: str, sign: float = 1.0) -> float | None:
    """A score; 0 of a source that is not there, and adds nothing."""
    if effect is None:
        return 0.0
    value = effect.score(name)
    return None if value is None else sign * value


def _rest(a: Explanation, b: Explanation, scores: tuple[str, ...], sign: float) -> Iterator[tuple[str, ScorePair]]:
    """What everything but the sources adds, of scores that sum to the explained number with it."""
    if "path" in scores:
        both = (total(one.path for one in found.others) for found in (a, b))
        first, second = ((0.0 if one is None else one) for one in both)
        yield "path", ScorePair(first, sign * second)
    if "shares" in scores and a.completeness is not None and b.completeness is not None:
        yield "shares", ScorePair(a.completeness.without, sign * b.completeness.without)


def _notes(a: Explanation, b: Explanation, scores: tuple[str, ...], flipped: bool) -> Iterator[str]:
    if flipped:
        yield f"B explains {_said(b)}: its numbers are given for {_said(a)}, the answer of A, with the other sign."
    first, second = a.influence_at, b.influence_at
    if first is not None and second is not None and first.weight != second.weight and "influence" in scores:
        yield (
            f"The influence was taken where sources have 1/{round(1 / first.weight)} of their weight in A and "
            f"1/{round(1 / second.weight)} in B, because one answer is more certain: compare it with care."
        )
    if a.edges != b.edges:
        yield "Different attention edges were weighted (--edges): influence, shares and knock-outs are left out."
    if a.model.name != b.model.name:
        yield "Logits of different models need not have the same scale: compare orders and signs rather than sizes."
