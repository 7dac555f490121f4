"""The answer at a glance: one forward pass and its gradient step; and the answer without some sources."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from iclens.explorer import recreate
from iclens.explorer.ask import Ask
from iclens.explorer.splitting import ways
from iclens.explorer.viewed import Viewed
from iclens.lens import Explanation, Lens
from iclens.lens.building import response_effects
from iclens.lens.prompt.sources import noun
from iclens.lens.read.answers import token_text
from iclens.lens.read.question import Question
from iclens.lens.read.question import ask as question_of


def glance(viewed: Viewed, ask: Ask) -> dict[str, Any]:
    """Show what an edit shows at once: the answer or the response, and every token's and source's direct effect.

    With sources switched off, also what the knock-out of them together estimates, and the answer after their
    text was deleted. The entries that `explain` has too have the same names and numbers there; its checks are left out.
    `refined` is the score that `iclens.explain` would order these sources by.

    Raises:
        UserError: the prompt, the answers or the sources cannot be handled.
    """
    lens, effects = viewed.lens, response_effects(viewed.lens.passes, 0)
    answer, tokenized = lens.answer, lens.tokenized
    split = viewed.pulls
    texts = [*tokenized.texts, *(token_text(lens.model.tokenizer, index) for index in lens.readout.forced)]
    roles = [*tokenized.roles, *["answer"] * len(lens.readout.forced)]
    parts = [None if part < 0 else part for part in lens.groups.tolist()]
    seen = {
        **_said(lens),
        "answer": answer.text,
        "answer_log_probability": answer.log_probability,
        "margin": answer.margin,
        "margin_definition": answer.definition,
        "tokens": [
            {"text": text, "part": part, "role": role, "gradient_step": value, "path": None}
            for text, part, role, value in zip(texts, parts, roles, lens.gradient_step.by_token.tolist(), strict=True)
        ],
        "sources": [
            {
                "index": i,
                "text": span.of(tokenized.prompt.text),
                "name": str(name),
                "kind": name.kind,
                "id": name.id,
                "gradient_step": float(split[..., i].sum()),
                "by_layer_and_head": split[..., i].tolist(),
            }
            for i, (span, name) in enumerate(zip(tokenized.prompt.sources, tokenized.prompt.source_names, strict=True))
        ],
        "response": None if effects is None else dataclasses.asdict(effects),
        "notes": list(tokenized.notes + lens.passes.questions[0].notes),
        "command": recreate.command(ask, lens.model),
        "ways": ways(ask.prompt),
        "refined": lens.usual_scores[0],
    }
    return seen | beside(seen, recreate.python(ask, lens.model), without(lens, ask))


def beside(seen: Mapping[str, Any], python: str, less: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write what the page shows beside the entries of an explanation.

    Args:
        seen: the explanation as plain data, or a glance of it.
        python: Python that gives its numbers.
        less: what `without` gives.
    """
    maps = [effect["by_layer_and_head"] for effect in seen["sources"]]
    return {
        "noun": noun([effect["kind"] for effect in seen["sources"]]),
        "probability": math.exp(seen["answer_log_probability"]),
        "by_layer_and_head": [[sum(cell) for cell in zip(*rows, strict=True)] for rows in zip(*maps, strict=True)],
        "n_tokens": sum(token["role"] != "answer" for token in seen["tokens"]),
        "without": less,
        "python": python,
    }


def whole(viewed: Viewed, ask: Ask) -> Explanation:
    """Explain a question with its scores and all checks; what is off is knocked out together."""
    lens, groups = viewed.lens, [ask.off] if ask.off else []
    told: dict[str, Any] = {"knock_out": groups, "command": recreate.command(ask, lens.model), **ask.inside}
    return lens.explanation(ask.scores, **told)


def explanation(viewed: Viewed, ask: Ask) -> dict[str, Any]:
    """Write the whole explanation as `iclens explain --json` does."""
    return whole(viewed, ask).to_dict()


def without(lens: Lens, ask: Ask) -> dict[str, Any] | None:
    """Estimate the answer without the sources that are off by their knock-out, and measure it by running again.

    Changes are with them minus without them: positive where they supported the answer. `error` is the estimated margin
    minus the measured one. None when no source is off.
    """
    if not ask.off:
        return None
    estimated = lens.knock_out([ask.off])
    shorter = Lens(lens.model, _shortened(lens, ask), held=False)
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


def _shortened(lens: Lens, ask: Ask) -> Question:
    """The same question without the text of what is off; a response is read by its own tokens."""
    own = lens.passes.questions[0]
    question = question_of(lens.model, ask.prompt.without(ask.off), ask.answers or None, ask.answer)
    # The margin of the whole prompt, so that the two can be compared, whatever the model answers without them.
    question = replace(question, readout=lens.readout)
    if own.response is None:
        return question
    question = replace(question, response=own.response)
    if own.foil is None or own.foil.response is None:
        return question
    foil = own.foil.response
    return replace(question, foil=replace(question, response=foil, readout=foil.readout))


def _said(lens: Lens) -> dict[str, Any]:
    return {
        "candidates": [dataclasses.asdict(candidate) for candidate in lens.answer.candidates],
        "next_tokens": [dataclasses.asdict(token) for token in lens.answer.next_tokens],
    }
