"""What the numbers of an explanation say, in words: how much the demonstrations matter, which ones, and how surely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from iclens.display_text import one_line, percent, plain, signed
from iclens.lens.facts import ADDITIVE, METHODS

if TYPE_CHECKING:
    from iclens.lens.explanation import Explanation

MOST_OF_IT = 2 / 3
"""Part of all support that the demonstrations make up on which an answer is said to rest."""

HARDLY = 0.1
"""Change of the margin, over the margin, up to which the demonstrations hardly matter."""

OPPOSES = 0.25
"""A negative score, over the largest score, from which a demonstration is said to oppose the answer."""

DISAGREE = 0.3
"""Rank correlation below which two scores are said to disagree."""

_MOST_NAMED = 4


def conclude(found: Explanation) -> tuple[str, ...]:
    """Say what the first score of an explanation found, and what the others say otherwise."""
    if not found.exact:
        return ()
    return (*_matter(found), *_rests(found), *_together(found), *_disagreements(found))


def _matter(found: Explanation) -> Iterator[str]:
    """How much the demonstrations matter beside the rest of the prompt."""
    if found.completeness is not None:
        without, then = found.completeness.without, f"Without any {found.noun}"
    elif found.influence_at is not None:
        without, weight = found.influence_at.margin, round(1 / found.influence_at.weight)
        then = f"With every {found.noun} at {'half' if weight == 2 else f'1/{weight} of'} its weight"
    else:
        return
    said = f"{then}, the logit difference would be {signed(without)} instead of {signed(found.margin)} nats"
    turned = without * found.margin < 0
    little = abs(found.margin - without) <= HARDLY * abs(found.margin)
    if turned and found.margin > 0:
        yield f"{said}: they decide for this answer."
    elif turned:
        yield f"{said}: they decide against this answer."
    elif little and found.completeness is not None:
        yield f"{said}: they hardly matter, the rest of the prompt decides."
    else:
        yield f"{said}."


def _rests(found: Explanation) -> Iterator[str]:
    name = found.scores[0]
    scores = {effect.index: effect.score(name) or 0.0 for effect in found.sources}
    ranked = sorted(scores, key=lambda i: -scores[i])
    support, largest = sum(max(0.0, score) for score in scores.values()), max(map(abs, scores.values()))
    by = f"by {METHODS.get(name, name.replace('_', ' '))}"
    if support <= 0.0:
        yield f"No {found.noun} supports the answer, {by}."
    elif len(scores) > 1:
        few, reached = [], 0.0
        for i in ranked:
            if reached >= MOST_OF_IT * support:
                break
            few.append(i)
            reached += scores[i]
        share = percent(reached / support)
        if len(few) <= max(1, len(scores) // 2) and len(few) <= _MOST_NAMED:
            yield f"The answer rests on {_named(found, few)}: {share} of all support, {by}."
        else:
            yield f"No few {found.noun}s carry the answer: {share} of all support comes from {len(few)}, {by}."
    against = [i for i in reversed(ranked) if scores[i] < 0.0 and scores[i] <= -OPPOSES * largest]
    if against:
        more = f" and {len(against) - _MOST_NAMED} more" if len(against) > _MOST_NAMED else ""
        verb = "opposes it" if len(against) == 1 else "oppose it"
        yield f"{_named(found, against[:_MOST_NAMED], more)} {verb}."
    if name in ADDITIVE and all(name in effect.of_output for effect in found.sources):
        of_labels = sum(abs(effect.of_output[name]) for effect in found.sources)
        of_inputs = sum(abs(scores[effect.index] - effect.of_output[name]) for effect in found.sources)
        if of_labels + of_inputs > 0.0:
            share = percent(of_labels / (of_labels + of_inputs))
            yield f"{share} of the effects comes from the outputs, the rest from the inputs."


def _together(found: Explanation) -> Iterator[str]:
    """Which demonstrations say the same, and which need each other."""
    if found.pairs is None:
        return
    if found.pairs.error >= found.pairs.spread:
        yield "Which of them act together cannot be told: pairs do not predict the subsets of this prompt."
        return
    for group in found.pairs.redundant[:_MOST_NAMED]:
        yield f"{_named(found, group)} say the same: with the others there, each loses half of its effect or more."
    for pair in found.pairs.dependent[:_MOST_NAMED]:
        yield f"{_named(found, pair)} depend on each other: either adds to the other's effect."
    if not found.pairs.redundant and not found.pairs.dependent:
        yield f"No two {found.noun}s say the same or depend on each other beyond doubt."


def _disagreements(found: Explanation) -> Iterator[str]:
    for one in found.agreement:
        if found.scores[0] in (one.first, one.second) and one.spearman is not None and one.spearman < DISAGREE:
            names = [METHODS.get(name, name.replace("_", " ")) for name in (one.first, one.second)]
            yield (
                f"{names[0][:1].upper()}{names[0][1:]} and {names[1]} rank the {found.noun}s differently "
                f"(rank correlation {plain(one.spearman)})."
            )


def _named(found: Explanation, indices: Sequence[int], more: str = "") -> str:
    called = {effect.index: one_line(effect.shown, 60) for effect in found.sources}
    names = [called.get(i, f"#{i}") for i in indices]
    if more or len(names) == 1:
        return ", ".join(names) + more
    return f"{', '.join(names[:-1])} and {names[-1]}"
