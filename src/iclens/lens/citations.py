"""Which sources an answer rests on, as plain data: statement → sources with their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from iclens.lens.facts import ADDITIVE, ResponseEffects, SourceEffect, StatementEffects, lost

if TYPE_CHECKING:
    from iclens.lens.explanation import Explanation

MOST_OF_IT = 2 / 3
"""Part of all support that the sources make up on which an answer is said to rest."""

OPPOSES = 0.25
"""A negative score, over the largest score, from which a source is said to oppose the answer."""


def carrying(scores: Mapping[int, float]) -> tuple[list[int], float]:
    """Return the fewest that make up two thirds of all support, strongest first, and their part of it."""
    support, few, reached = sum(max(0.0, score) for score in scores.values()), [], 0.0
    for i in sorted(scores, key=lambda i: -scores[i]):
        if scores[i] <= 0.0 or reached >= MOST_OF_IT * support:
            break
        few.append(i)
        reached += scores[i]
    return few, reached / support if support > 0.0 else 0.0


def opposing(scores: Mapping[int, float]) -> list[int]:
    """Those whose score is negative and not small beside the largest, the most negative first."""
    largest = max(map(abs, scores.values()), default=0.0)
    against = [i for i, score in scores.items() if score < 0.0 and score <= -OPPOSES * largest]
    return sorted(against, key=lambda i: scores[i])


def citations(found: Explanation, by: str | None = None) -> list[dict[str, Any]]:
    """Cite the sources of the explained answer, see `Explanation.citations`."""
    statements = () if found.response is None else found.response.statements
    name = found.scores[0] if by is None else by
    of_whole = name in ("influence_deletions", "influence_knock_out")
    if by is None and of_whole and "influence" in found.scores and len(statements) > 1:
        # These are scores of the whole; of each statement the influence alone is known.
        name = "influence"
    # It refuses a score that was not computed.
    found.ranked(name)
    if found.response is not None and statements and name == "influence":
        return [_of_statement(found, found.response, one, name) for one in statements]
    scores = {k: effect.score(name) or 0.0 for k, effect in enumerate(found.sources)}
    additive = next((one for one in (name, *found.scores) if one in ADDITIVE), "")
    parts = {k: [one.scores.get(additive, 0.0) for one in effect.pieces] for k, effect in enumerate(found.sources)}
    share = None if found.grounding is None else found.grounding.share
    about = {"statement": found.answer.strip(), **_place(found), "log_probability": found.answer_log_probability}
    return [about | _cited(found, name, share, scores, parts, removed=True)]


def _place(found: Explanation) -> dict[str, int | None]:
    """Where what is explained stands in the response."""
    response = found.response
    if response is None:
        return {"start": None, "end": None}
    if response.statement is None:
        return {"start": 0, "end": len(response.text)}
    start = response.text.find(response.statement)
    return {"start": start, "end": start + len(response.statement)}


def _of_statement(
    found: Explanation, response: ResponseEffects, statement: StatementEffects, name: str
) -> dict[str, Any]:
    tokens, then = slice(statement.first, statement.last), found.grounding
    share = None if then is None else lost(statement.log_probability - sum(then.log_probabilities[tokens]))
    about = {
        "statement": response.text[statement.start : statement.end],
        "start": statement.start,
        "end": statement.end,
        "log_probability": statement.log_probability,
    }
    pieces = statement.pieces or [()] * len(found.sources)
    # What a deletion changes is known of the whole response alone.
    return about | _cited(
        found, name, share, dict(enumerate(statement.influence)), dict(enumerate(pieces)), removed=False
    )


def _cited(
    found: Explanation,
    name: str,
    share: float | None,
    scores: Mapping[int, float],
    parts: Mapping[int, Sequence[float]],
    *,
    removed: bool,
) -> dict[str, Any]:
    """The sources that a statement rests on and those that oppose it, by their scores and those of their pieces."""
    support = sum(max(0.0, score) for score in scores.values())

    def cited(chosen: Sequence[int]) -> list[dict[str, Any]]:
        return [_source(found.sources[i], scores[i], support, parts[i], removed) for i in chosen]

    return {
        "score": name,
        "context_share": share,
        "sources": cited(carrying(scores)[0]),
        "opposed_by": cited(opposing(scores)),
    }


def _source(
    effect: SourceEffect, score: float, support: float, parts: Sequence[float], removed: bool
) -> dict[str, Any]:
    """One source; of its pieces those that carry its score, or, where it opposes the answer, those that do."""
    each = dict(enumerate(parts))
    chosen = carrying(each)[0] if score > 0.0 else opposing(each)
    return {
        "name": effect.name,
        "kind": effect.kind,
        "id": effect.id,
        "text": effect.text,
        "score": score,
        "share": score / support if score > 0.0 else None,
        "text_removed": effect.rerun_margin_change if removed else None,
        "pieces": [
            {
                "kind": one.kind,
                "index": one.index,
                "text": one.text,
                "score": each[one.index],
                "text_removed": one.rerun_margin_change if removed else None,
            }
            for one in (effect.pieces[k] for k in chosen)
        ],
    }
