"""The answer at a glance: one forward pass and its gradient step; and the answer without some demonstrations."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from iclens.explorer import recreate
from iclens.explorer.ask import Ask
from iclens.lens.explaining import explain
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.tokens import tokenize
from iclens.lens.read.answered import Answered, Read, answer_prompt, by_group, read_margin
from iclens.lens.read.answers import likeliest, token_text
from iclens.lens.scores.gradient_step import gradient_step
from iclens.lens.scores.knock_out import knock_out
from iclens.lens.scores.rerun import rerun

N_NEXT = 10
_N_LIKELY = 4


def begin(lens_model: LensModel, ask: Ask) -> Answered:
    """The answer to what is asked, with every demonstration."""
    lens_model.require_causal()
    tokenized = tokenize(ask.prompt, lens_model.tokenizer, lens_model.context_length)
    return answer_prompt(lens_model, tokenized, ask.answers or None, ask.answer)


def read_answers(lens_model: LensModel, answered: Answered, most: int) -> dict[str, int]:
    """The first `most` candidates, the explained one always among them, each with its first token's id.

    Where these begin with fewer than two tokens, so that nothing could be told apart by them, the likeliest next tokens
    come after them.
    """
    candidates = list(zip(answered.answers.candidates, answered.candidates, strict=True))
    room = most - sum(scored.chosen for _, scored in candidates[most:])
    found = {
        entry.text: entry.token_ids[0] for i, (entry, scored) in enumerate(candidates) if i < room or scored.chosen
    }
    if len(set(found.values())) > 1:
        return found
    known = set(found.values())
    for token in likeliest(lens_model.tokenizer, answered.first.logits[0], _N_LIKELY):
        if token.token_id not in known:
            found.setdefault(token.text, token.token_id)
    return found


def glance(lens_model: LensModel, ask: Ask) -> dict[str, Any]:
    """What an edit shows at once: the answer, and every token's and demonstration's gradient step.

    With demonstrations switched off, also the exact knock-out of them together, and the answer after their text was
    deleted. The same numbers as `explain` gives, without its checks.

    Raises:
        UserError: the prompt, the answers or the demonstrations cannot be handled.
    """
    answered = begin(lens_model, ask)
    read = read_margin(lens_model, answered)
    tokenized = answered.tokenized
    step = gradient_step(read.traced)
    direct = step.contributions.double()
    split = by_group(direct, read.groups, tokenized.n_demonstrations)
    texts = [*tokenized.texts, *(token_text(lens_model.tokenizer, index) for index in read.forced)]
    parts = [None if part < 0 else part for part in read.groups.tolist()]
    by_token = direct.sum((0, 1)).tolist()
    return {
        **_said(lens_model, answered),
        "answer": answered.margin.answer,
        "margin": read.traced.margin,
        "margin_definition": answered.margin.definition,
        "log_probability": read.traced.log_probability,
        "probability": math.exp(read.traced.log_probability),
        "tokens": [
            {"text": text, "part": part, "role": role, "gradient_step": value}
            for text, part, role, value in zip(texts, parts, read.roles, by_token, strict=True)
        ],
        "demonstrations": [
            {
                "index": i,
                "text": span.of(tokenized.prompt.text),
                "gradient_step": float(split[..., i].sum()),
                "by_layer_and_head": split[..., i].tolist(),
            }
            for i, span in enumerate(tokenized.prompt.demonstrations)
        ],
        "by_layer_and_head": split.sum(-1).tolist(),
        "without": _without(lens_model, ask, answered, read) if ask.off else None,
        "notes": list(tokenized.notes + answered.answers.notes),
        "n_tokens": tokenized.n_tokens,
        "command": recreate.command(ask, lens_model),
        "python": recreate.python(ask, lens_model),
    }


def explanation(lens_model: LensModel, ask: Ask) -> dict[str, Any]:
    """The whole explanation, as `iclens explain --json` writes it; what is off is knocked out together."""
    found = explain(
        lens_model,
        prompt=ask.prompt,
        answers=ask.answers or None,
        answer=ask.answer,
        knock_out=[ask.off] if ask.off else [],
        command=recreate.command(ask, lens_model),
    )
    return found.to_dict()


def _said(lens_model: LensModel, answered: Answered) -> dict[str, Any]:
    return {
        "candidates": [dataclasses.asdict(candidate) for candidate in answered.candidates],
        "next_tokens": [
            dataclasses.asdict(token) for token in likeliest(lens_model.tokenizer, answered.first.logits[0], N_NEXT)
        ],
    }


def _without(lens_model: LensModel, ask: Ask, answered: Answered, read: Read) -> dict[str, Any]:
    """What the knock-out foretells for the demonstrations that are off, and what the model says without their text."""
    foretold = knock_out(read.traced, read.groups, [ask.off])
    measured = rerun(lens_model, ask.prompt, answered.margin, [ask.off])
    shorter = tokenize(ask.prompt.without(ask.off), lens_model.tokenizer, lens_model.context_length)
    again = answer_prompt(lens_model, shorter, ask.answers or None, ask.answer)
    full, log_full = read.traced.margin, read.traced.log_probability
    log_foretold, log_measured = float(foretold.log_probabilities[0]), float(measured.log_probabilities[0])
    return {
        "demonstrations": list(ask.off),
        "foretold": {
            "margin": float(foretold.margins[0]),
            "margin_change": full - float(foretold.margins[0]),
            "log_probability_change": log_full - log_foretold,
            "probability": math.exp(log_foretold),
        },
        "measured": {
            "margin": float(measured.margins[0]),
            "margin_change": full - float(measured.margins[0]),
            "log_probability_change": log_full - log_measured,
            "probability": math.exp(log_measured),
            **_said(lens_model, again),
        },
    }
