"""Notes on an explanation: what is doubtful about the answer that it explains, each in a sentence or two."""

from __future__ import annotations

from iclens.display_text import percent
from iclens.lens.facts import Completeness, Taken, Token
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.pieces import has_sentences
from iclens.lens.prompt.sources import DEMONSTRATION
from iclens.lens.prompt.tokens import FIRST
from iclens.lens.read.answers import Answers
from iclens.lens.read.question import Answer
from iclens.lens.read.response import Response
from iclens.lens.read.tolerance import is_half
from iclens.lens.scores.influence import HALF

MUCH = 0.3
"""Share of the attention, in the mean over layers and heads, from which the first token gets a note."""


def about_candidates(answers: Answers, given: Answer) -> tuple[str, ...]:
    """Say that the model would answer none of the candidates, and that its margin contradicts the whole answers."""
    if not answers.candidates:
        return ()
    notes = []
    following = given.next_tokens[0]
    best = max(given.candidates, key=lambda one: one.log_probability)
    if following.token_id not in {one.token_ids[0] for one in answers.candidates}:
        several = len(given.candidates) > 1
        compared = (
            f"none of the candidates: the likeliest of them, {best.text!r}," if several else f"not {best.text!r}, which"
        )
        notes.append(
            f"The model would say {following.text!r} ({percent(following.probability)}), {compared} has "
            f"{percent(best.probability)}."
        )
        alike = [one for one in answers.candidates if one.text.strip() == following.text.strip()]
        if alike:
            notes[-1] += f" The two differ in white space alone: the candidate is read as {''.join(alike[0].tokens)!r}."
        if following.text.strip() == "<think>":
            notes.append(
                "The model would think before it answers. Where the chat template has a switch for that, such as "
                "enable_thinking, turn it off with the template's arguments (enable_thinking=false)."
            )
    if best.chosen and len(given.candidates) > 1 and given.margin < 0:
        second = max((one for one in given.candidates if not one.chosen), key=lambda one: one.log_probability)
        notes.append(
            f"As a whole, {best.text!r} is the likeliest answer (log-probability {best.log_probability:.2f} against "
            f"{second.log_probability:.2f} of {second.text!r}), but not at the first token where the candidates "
            f"differ, where the logit difference is read ({given.margin:.2f} nats): the tokens after it decide."
        )
    return tuple(notes)


def about_completeness(margin: float, found: Completeness | None, noun: str = DEMONSTRATION) -> tuple[str, ...]:
    """Say that the shares do not sum to what the demonstrations change, and by how much."""
    if found is None or found.holds:
        return ()
    change = f"{margin - found.without:+.3f} nats, by which all {noun}s together change it"
    return (
        f"The shares are not complete: their sum is off by {100 * found.gap:.0f} % from {change}. Integrate over more "
        f"than {len(found.weights)} weights (nodes) to bring them nearer.",
    )


def about_certainty(taken: Taken | None, noun: str = DEMONSTRATION) -> tuple[str, ...]:
    """Say that the influence was taken at a smaller weight than half, and why."""
    if taken is None or taken.weight == HALF:
        return ()
    return (
        f"The model is certain of this answer even when all {noun}s weigh half: the influence is taken where "
        f"they weigh 1/{round(1 / taken.weight)}, and this weight counts as half.",
    )


def about_the_first_token(first: Token, share: float, noun: str = DEMONSTRATION) -> tuple[str, ...]:
    """Say that much of the attention rests on the first token of the text; `share` is its mean weight."""
    if first.role != FIRST or share < MUCH:
        return ()
    return (
        f"The first token of the text, {first.text!r}, takes {percent(share)} of the last token's attention in the "
        f"mean over layers and heads: an attention sink. It is a part of its own; no {noun}'s score contains it.",
    )


def about_rounding(margin: float, unsure: float, dtype: str) -> tuple[str, ...]:
    """Say that the margin is lost in the rounding of the logits; `unsure` is what the rounding leaves open, in nats."""
    if abs(margin) > unsure:
        return ()
    return (
        f"the margin, {margin:.3g} nats, is no larger than what {dtype} leaves open in these logits "
        f"({unsure:.2g}): load the model in a wider type before you trust its parts.",
    )


def about_experts(model: LensModel) -> tuple[str, ...]:
    """Say what rounding in half precision does to a model that chooses experts."""
    if not is_half(model.dtype) or not any(layer.held for layer in model.anatomy.layers):
        return ()
    name = str(model.dtype).removeprefix("torch.")
    return (
        f"In {name} rounding may decide which experts a token goes to. The checks compare passes with the same choice, "
        "but a knock-out may change it by rounding alone: load the model in float32 where small differences count.",
    )


def about_fallback(reason: str, n_tokens: int) -> tuple[str, ...]:
    """Say that the influence on the tokens of a response cost a backward pass for each, and why."""
    if not reason:
        return ()
    return (
        f"The influence on each token of the response was taken by {n_tokens} backward passes: forward derivatives, "
        f"which cost less, do not go through this model ({reason}).",
    )


def about_statements(response: Response | None) -> tuple[str, ...]:
    """Say that the statements of a response are its lines, where sentences cannot be found."""
    if response is None or response.statement is not None or has_sentences():
        return ()
    return (
        "The response is cited line by line: sentences need the package sentencex, which "
        "`pip install 'iclens[sentences]'` brings.",
    )
