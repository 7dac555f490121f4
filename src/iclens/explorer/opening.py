"""The prompt that the page opens with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iclens import bundled
from iclens.explorer.ask import Ask
from iclens.lens.prompt import BLANK_LINE, Prompt

N_BUNDLED = 8
"""Demonstrations of the bundled example that the page opens with: two of each kind."""

_BUNDLED_ANSWERS = ("vux", "blick", "nef", "zup")
_REVIEWS = """A film to fall asleep to.
Sentiment: negative

I laughed from beginning to end.
Sentiment: positive

The plot makes no sense at all.
Sentiment: negative

Warm, clever and beautifully acted.
Sentiment: positive

I want my two hours back.
Sentiment:"""


def opening(model: str, prompt: Prompt | None = None, answers: Sequence[str] = ()) -> dict[str, Any]:
    """The question that the page opens with.

    Args:
        model: name of the model.
        prompt: the user's prompt; an example when None.
        answers: the user's candidate answers.
    """
    if prompt is None and model == "bundled":
        blocks = (bundled.path() / "prompt.txt").read_text(encoding="utf-8").strip().split(BLANK_LINE)
        prompt = Prompt.from_text(BLANK_LINE.join([*blocks[:N_BUNDLED], blocks[-1]]))
        answers = answers or _BUNDLED_ANSWERS
    elif prompt is None:
        prompt = Prompt.from_text(_REVIEWS)
        answers = answers or ("positive", "negative")
    return Ask(prompt, tuple(answers)).to_document()
