"""The page of one explanation: the explorer's, saved, with that explanation's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

from iclens.explorer import page, recreate
from iclens.explorer.ask import Ask
from iclens.explorer.snapshot import snapshot
from iclens.lens.explaining import explain
from iclens.lens.explanation import Explanation
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.prompt import Prompt


def explained_page(
    lens_model: LensModel,
    prompt: Prompt,
    explanation: Explanation,
    *,
    answers: Sequence[str] = (),
    answer: str | None = None,
    **options: Any,
) -> str:
    """One HTML file that opens from a disk and loads nothing: what `iclens explain --html` writes.

    Besides the explanation it shows the layers and the heads that move the margin most, computed here.

    Args:
        lens_model: the model that was explained.
        prompt: the prompt that was explained.
        explanation: what was found.
        answers: the candidate answers that were given.
        answer: the answer that was asked for.
        options: the other arguments that `iclens.explain` was given, for the Python on the page.
    """
    ask = Ask(prompt, tuple(answers), answer)
    data = snapshot(lens_model, ask, explanation.to_dict())
    defaults = signature(explain).parameters
    given = {name: value for name, value in options.items() if value != defaults[name].default}
    data["glance"]["python"] = recreate.python(ask, lens_model, **given)
    return page.saved(data)
