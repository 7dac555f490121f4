"""Which sources an answer rests on, as plain data: statement → sources with their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from iclens.lens.facts import ADDITIVE, SourceEffect

if TYPE_CHECKING:
    from iclens.lens.explanation import Explanation

MOST_OF_IT = 2 / 3
"""Part of all support that the sources make up on which an answer is said to rest."""

OPPOSES = 0.25
"""A negative score, over the largest score, from which a source is said to oppose the answer."""


def carrying(scores: Mapping[int, float]) -> tuple[list[int], float]:
    """The fewest that make up two thirds of all support, strongest first, and their part of it."""
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
    name = found.scores[0] if by is None else by
    ranked = found.ranked(name)
    scores = {effect.index: effect.score(name) or 0.0 for effect in ranked}
    support = sum(max(0.0, score) for score in scores.values())

    def cited(chosen: Sequence[int]) -> list[dict[str, Any]]:
        return [_cited(found.sources[i], name, scores[i], support) for i in chosen]

    return [
        {
            "statement": found.answer.strip(),
            "log_probability": found.answer_log_probability,
            "score": name,
            "context_share": None if found.grounding is None else found.grounding.share,
            "sources": cited(carrying(scores)[0]),
            "opposed_by": cited(opposing(scores)),
        }
    ]


def _cited(effect: SourceEffect, name: str, score: float, support: float) -> dict[str, Any]:
    """One source; of its pieces those that carry its score, or, where it opposes the answer, those that do."""
    parts: dict[int, float] = {}
    if name in ADDITIVE:
        parts = {one.index: one.scores.get(name, 0.0) for one in effect.pieces}
    chosen = carrying(parts)[0] if score > 0.0 else opposing(parts)
    return {
        "name": effect.name,
        "kind": effect.kind,
        "id": effect.id,
        "text": effect.text,
        "score": score,
        "share": score / support if score > 0.0 else None,
        "text_removed": effect.rerun_margin_change,
        "pieces": [
            {
                "kind": one.kind,
                "index": one.index,
                "text": one.text,
                "score": parts[one.index],
                "text_removed": one.rerun_margin_change,
            }
            for one in (effect.pieces[k] for k in chosen)
        ],
    }
