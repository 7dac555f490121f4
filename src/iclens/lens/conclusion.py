"""What the numbers of an explanation say, in words: how much the demonstrations matter, which ones, and how surely."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from iclens.display_text import one_line, percent, plain, signed
from iclens.lens.citations import MOST_OF_IT, carrying, opposing
from iclens.lens.facts import ADDITIVE, METHODS

if TYPE_CHECKING:
    from iclens.lens.explanation import Explanation
    from iclens.lens.facts import SourceEffect

HARDLY = 0.1
"""Change of the margin, over the margin, up to which the demonstrations hardly matter."""

DISAGREE = 0.3
"""Rank correlation below which two scores are said to disagree."""

_MOST_NAMED = 4


def conclude(found: Explanation) -> tuple[str, ...]:
    """Say what the answer rests on by the first score, how much all sources matter, and where scores differ."""
    if not found.exact:
        return ()
    rests_on = (*_grounded(found), *_rests(found), *_together(found))
    return (*rests_on, *_without(found), *_matter(found), *_disagreements(found))


def _matter(found: Explanation) -> Iterator[str]:
    """How much the demonstrations matter beside the rest of the prompt."""
    if found.completeness is not None:
        without, then = found.completeness.without, f"Without any {found.noun}"
    elif found.influence_at is not None:
        without, weight = found.influence_at.margin, round(1 / found.influence_at.weight)
        then = f"With every {found.noun} at {'half' if weight == 2 else f'1/{weight} of'} its weight"
    else:
        return
    said = f"{then}, the {found.quantity} would be {signed(without)} instead of {signed(found.margin)} nats"
    # A log-probability has no side of zero that decides.
    turned = without * found.margin < 0 and (found.response is None or found.response.measure != "log_probability")
    little = abs(found.margin - without) <= HARDLY * abs(found.margin)
    if turned and found.margin > 0:
        yield f"{said}: they decide for this answer."
    elif turned:
        yield f"{said}: they decide against this answer."
    elif little and found.completeness is not None:
        yield f"{said}: they hardly matter, the rest of the prompt decides."
    else:
        yield f"{said}."


def _grounded(found: Explanation) -> Iterator[str]:
    """Whether the answer rests on the text of the sources."""
    told = found.grounding
    if told is None:
        return
    sources = f"the {found.noun}s"
    if told.gain <= 0.0:
        yield f"The answer does not rest on {sources}: without them it is likelier."
    elif told.share <= 1 - MOST_OF_IT:
        kept = percent(1 - told.share)
        yield f"The answer hardly rests on {sources}: without them it keeps {kept} of its probability."
    else:
        verdict = "is grounded in" if told.share >= MOST_OF_IT else "rests in part on"
        yield f"The answer {verdict} {sources}: they give it {percent(told.share)} of its probability."


def _without(found: Explanation) -> Iterator[str]:
    """What the model says without the text of any source."""
    told = found.grounding
    if told is None:
        return
    then = f"Without the text of any {found.noun} the model would say {one_line(told.answer.strip(), 60)!r}"
    of = f"{one_line(found.answer.strip(), 60)!r}"
    # The probability of a long response is tiny whatever it rests on: of a token, its mean says more.
    count = 1 if found.response is None else found.response.last - found.response.first
    before, now = (percent(math.exp(one / count)) for one in (told.log_probability, found.answer_log_probability))
    each = "" if count == 1 else " a token, in the geometric mean"
    yield f"{then} ({percent(told.probability)}), and {of} would have {before} instead of {now}{each}."


def _rests(found: Explanation) -> Iterator[str]:
    name = found.scores[0]
    scores = {effect.index: effect.score(name) or 0.0 for effect in found.sources}
    by = f"by {METHODS.get(name, name.replace('_', ' '))}"
    few, share = carrying(scores)
    if not few:
        yield f"No {found.noun} supports the answer, {by}."
    elif len(scores) > 1:
        if found.grounding is not None and found.grounding.share <= 1 - MOST_OF_IT:
            # It does not rest on them, whichever is the strongest.
            them = _named(found, few[:_MOST_NAMED], f" and {len(few) - _MOST_NAMED} more" if few[_MOST_NAMED:] else "")
            yield f"Of the support that the {found.noun}s give, {percent(share)} comes from {them}, {by}."
        elif len(few) <= max(1, len(scores) // 2) and len(few) <= _MOST_NAMED:
            yield f"The answer rests on {_named(found, few)}: {percent(share)} of all support, {by}."
        else:
            told = f"{percent(share)} of all support comes from {len(few)}, {by}."
            yield f"No few {found.noun}s carry the answer: {told}"
    additive = next((one for one in found.scores if one in ADDITIVE), "")
    if few and additive:
        yield from _pieces(found, next(one for one in found.sources if one.index == few[0]), additive)
    against = opposing(scores)
    if against:
        more = f" and {len(against) - _MOST_NAMED} more" if len(against) > _MOST_NAMED else ""
        verb = "opposes it" if len(against) == 1 else "oppose it"
        named = _named(found, against[:_MOST_NAMED], more)
        yield f"{named[:1].upper()}{named[1:]} {verb}."
    if additive and all(additive in effect.of_output for effect in found.sources):
        of_labels = sum(abs(effect.of_output[additive]) for effect in found.sources)
        of_inputs = sum(abs((one.score(additive) or 0.0) - one.of_output[additive]) for one in found.sources)
        if of_labels + of_inputs > 0.0:
            from_outputs = percent(of_labels / (of_labels + of_inputs))
            which = "the effects" if additive == name else f"the {METHODS[additive]}"
            yield f"{from_outputs} of {which} comes from the outputs, the rest from the inputs."


def _pieces(found: Explanation, effect: SourceEffect, name: str) -> Iterator[str]:
    """Which of its pieces the strongest source rests on."""
    if len(effect.pieces) < 2:
        return
    few, share = carrying({one.index: one.scores.get(name, 0.0) for one in effect.pieces})
    if few and len(few) <= max(1, len(effect.pieces) // 2):
        kind = effect.pieces[0].kind
        said = ", ".join(f"{one_line(effect.pieces[k].text.strip(), 80)!r}" for k in few[:_MOST_NAMED])
        where = f"{kind}{'s' * (len(few) > 1)} {', '.join(map(str, few))}"
        yield f"In {one_line(effect.shown, 60)} it is {where} ({said}): {percent(share)}."


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
