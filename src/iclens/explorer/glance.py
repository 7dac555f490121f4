"""The answer at a glance: one forward pass and its gradient step; and the answer without some demonstrations."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from iclens.explorer import recreate
from iclens.explorer.ask import Ask
from iclens.explorer.viewed import Viewed
from iclens.lens import Lens
from iclens.lens.read.answers import token_text


def glance(viewed: Viewed, ask: Ask) -> dict[str, Any]:
    """What an edit shows at once: the answer, and every token's and demonstration's gradient step.

    With demonstrations switched off, also the exact knock-out of them together as an estimate, and the answer after
    their text was deleted. The same numbers as `explain` gives, without its checks.

    Raises:
        UserError: the prompt, the answers or the demonstrations cannot be handled.
    """
    lens = viewed.lens
    answer, tokenized = lens.answer, lens.tokenized
    split = viewed.pulls[..., :-1]
    texts = [*tokenized.texts, *(token_text(lens.model.tokenizer, index) for index in lens.readout.forced)]
    roles = [*tokenized.roles, *["answer"] * len(lens.readout.forced)]
    parts = [None if part < 0 else part for part in lens.groups.tolist()]
    return {
        **_said(lens),
        "answer": answer.text,
        "margin": answer.margin,
        "margin_definition": answer.definition,
        "log_probability": answer.log_probability,
        "probability": math.exp(answer.log_probability),
        "tokens": [
            {"text": text, "part": part, "role": role, "gradient_step": value}
            for text, part, role, value in zip(texts, parts, roles, lens.gradient_step.by_token.tolist(), strict=True)
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
        "without": _without(lens, ask) if ask.off else None,
        "notes": list(tokenized.notes + lens.passes.questions[0].answers.notes),
        "n_tokens": tokenized.n_tokens,
        "command": recreate.command(ask, lens.model),
        "python": recreate.python(ask, lens.model),
    }


def explanation(viewed: Viewed, ask: Ask) -> dict[str, Any]:
    """The whole explanation, as `iclens explain --json` writes it; what is off is knocked out together."""
    lens = viewed.lens
    found = lens.explanation(knock_out=[ask.off] if ask.off else [], command=recreate.command(ask, lens.model))
    return found.to_dict()


def _said(lens: Lens) -> dict[str, Any]:
    return {
        "candidates": [dataclasses.asdict(candidate) for candidate in lens.answer.candidates],
        "next_tokens": [dataclasses.asdict(token) for token in lens.answer.next_tokens],
    }


def _without(lens: Lens, ask: Ask) -> dict[str, Any]:
    """What the knock-out estimates for the demonstrations that are off, and what the model says without their text."""
    estimated = lens.knock_out([ask.off])
    # The margin of the whole prompt, so that the two can be compared, whatever the model answers without them.
    shorter = Lens(
        lens.model,
        ask.prompt.without(ask.off),
        answers=ask.answers or None,
        answer=ask.answer,
        readout=lens.readout,
        held=False,
    )
    full, measured = lens.answer, shorter.answer
    margin, log_probability = float(estimated.margins[0]), float(estimated.log_probabilities[0])
    return {
        "demonstrations": list(ask.off),
        "estimated": {
            "margin": margin,
            "margin_change": full.margin - margin,
            "log_probability_change": full.log_probability - log_probability,
            "probability": math.exp(log_probability),
            "error": margin - measured.margin,
        },
        "measured": {
            "margin": measured.margin,
            "margin_change": full.margin - measured.margin,
            "log_probability_change": full.log_probability - measured.log_probability,
            "probability": math.exp(measured.log_probability),
            **_said(shorter),
        },
    }
