"""Letting the model write a response, which the page then explains as a text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iclens.explorer.ask import Ask
from iclens.explorer.reading import whole
from iclens.lens import LensModel
from iclens.lens.read.question import ask as ask_model
from iclens.lens.read.responding import responding
from iclens.lens.read.response import read_response
from iclens.lens.read.response_options import ResponseOptions

N_TOKENS = 40
MOST_TOKENS = 512


def write(lens_model: LensModel, document: Any, n_tokens: int | None = None, seed: int | None = None) -> dict[str, Any]:
    """Let the model write a response to a question: the likeliest, or one that is drawn.

    Args:
        lens_model: the model.
        document: the question, without a response; it may hold `"generate"`, the most tokens, and `"seed"`.
        n_tokens: the most tokens, where the question does not say.
        seed: draws the response, where the question does not say.

    Returns:
        `"response"`, its text; and `"same"`, whether the text is read as the very tokens that were written.

    Raises:
        UserError: the question cannot be read, has a response or answers, or leaves no room.
    """
    own = dict(document) if isinstance(document, dict) else {}
    most = whole(own, "generate", 1, MOST_TOKENS) or n_tokens or N_TOKENS
    seed = whole(own, "seed") if own.get("seed") is not None else seed
    asked = {key: value for key, value in own.items() if key not in ("generate", "seed", "statement")}
    ask = Ask.read(asked if own else document, lens_model.tokenizer)
    question = ask_model(lens_model, ask.prompt, ask.answers or None, ask.answer)
    wanted = ResponseOptions(ask.response, generate=most, seed=seed)
    told = responding(lens_model, replace(question, writing=wanted)).response
    assert told is not None
    # As it was written, a response has the white space before it, which the prompt may bring.
    for text in (told.text, "".join(told.tokens)):
        read = read_response(text, question.tokenized, lens_model.tokenizer, lens_model.context_length)
        if read.token_ids == told.token_ids:
            return {"response": text, "same": True}
    return {"response": told.text, "same": False}
