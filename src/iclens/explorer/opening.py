"""The prompt that the page opens with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iclens.explorer.app import VIEWS
from iclens.explorer.ask import Ask
from iclens.explorer.ready import ready
from iclens.explorer.viewed import Kept
from iclens.lens import LensModel
from iclens.lens.prompt import Prompt


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
    if prompt is None:
        ours = ready(model)[0]
        prompt, examples = ours.ask.prompt, ours.answers
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
