"""The prompt that the page opens with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iclens import bundled
from iclens.explorer.app import VIEWS
from iclens.explorer.ask import Ask
from iclens.explorer.viewed import Kept
from iclens.lens import LensModel
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


def opening(
    model: str, prompt: Prompt | None = None, answers: Sequence[str] = (), responds: bool = False, **asked: Any
) -> dict[str, Any]:
    """The question that the page opens with.

    Args:
        model: name of the model.
        prompt: the user's prompt; an example when None.
        answers: the user's candidate answers.
        responds: whether a response takes the place of the example's answers.
        asked: further attributes of the question.
    """
    examples: tuple[str, ...] = ()
    if prompt is None and model == "bundled":
        blocks = (bundled.path() / "prompt.txt").read_text(encoding="utf-8").strip().split(BLANK_LINE)
        prompt = Prompt.from_text(BLANK_LINE.join([*blocks[:N_BUNDLED], blocks[-1]]))
        examples = _BUNDLED_ANSWERS
    elif prompt is None:
        prompt = Prompt.from_text(_REVIEWS)
        examples = ("positive", "negative")
    return Ask(prompt, tuple(answers or (() if responds else examples)), **asked).to_document()


def warm(lens_model: LensModel, example: dict[str, Any]) -> None:
    """Answer a question once in every view.

    Raises:
        UserError: it cannot be answered.
    """
    viewed = Kept(lens_model).of(Ask.read(example, lens_model.tokenizer))
    for name, view in VIEWS.items():
        asked = {**example, "layer": 0, "head": 0} if name == "head" else example
        view(viewed, Ask.read(asked, lens_model.tokenizer))
