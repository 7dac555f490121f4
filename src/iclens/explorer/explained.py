"""The page of one explanation: the explorer's, saved, with that explanation's numbers."""

from __future__ import annotations

from inspect import signature
from typing import Any

from iclens.errors import UserError
from iclens.explorer import page, recreate
from iclens.explorer.ask import Ask
from iclens.explorer.snapshot import snapshot
from iclens.explorer.viewed import Viewed
from iclens.lens import VIEWS, WRITERS, Explanation, Lens, explain


@WRITERS.register("html")
def explained_page(explanation: Explanation) -> str:
    """One HTML file that opens from a disk and loads nothing: what `iclens explain --html` writes.

    Besides the explanation it shows the layers and the heads that move the margin most, from the same passes.

    Raises:
        UserError: the explanation has no lens, because it was loaded from a file or was one of many.
    """
    lens: Lens | None = explanation.lens
    if lens is None:
        raise UserError(
            "this explanation holds no model, since it was read from a file or was one of many: call explain(...) on "
            "its prompt, and save that as a page."
        )
    question = lens.passes.questions[0].answers
    explained = None if question.explained is None else question.candidates[question.explained].text
    given = tuple(entry.text for entry in question.candidates)
    ask = Ask(lens.prompt, given if len(given) > 1 else (), explained)
    data = snapshot(Viewed(lens), ask, explanation.to_dict())
    data["glance"]["python"] = recreate.python(ask, lens.model, **_options(explanation))
    return page.saved(data)


@VIEWS.register("show")
def show(explanation: Explanation, height: int = 720) -> Any:
    """The page inside a notebook cell.

    Args:
        explanation: what was found.
        height: of the frame, in pixels.
    """
    return Framed(str(explained_page(explanation)), height)


class Framed:
    """A page in a frame of its own, which notebooks show."""

    def __init__(self, content: str, height: int) -> None:
        self.content = content
        self.height = height

    def _repr_html_(self) -> str:
        from html import escape

        return (
            f'<iframe srcdoc="{escape(self.content, quote=True)}" sandbox="allow-scripts" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )


def _options(explanation: Explanation) -> dict[str, Any]:
    """The other arguments of `iclens.explain` that gave it, where they differ from their defaults."""
    given: dict[str, Any] = {
        "scores": explanation.scores,
        "knock_out": tuple(group.demonstrations for group in explanation.group_knock_outs),
        "faithfulness": bool(explanation.faithfulness),
        "n_next": len(explanation.next_tokens),
    }
    defaults = signature(explain).parameters
    return {name: value for name, value in given.items() if value != defaults[name].default}
