"""Everything that a saved page shows: an explanation, and what its lens adds without another pass."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from iclens.errors import UserError
from iclens.explorer import recreate
from iclens.explorer.ask import Ask
from iclens.explorer.glance import beside, whole, without
from iclens.explorer.head_view import head_view
from iclens.explorer.layers_view import layers_view
from iclens.explorer.page import rounded
from iclens.explorer.viewed import Viewed
from iclens.lens import Explanation

MOST_HEADS = 12
_MOST_MAPS = 8_000
"""Numbers of the maps of single demonstrations that are still saved."""
_MOST_HEAD_BYTES = 200_000
"""What heads may take of the page together: with long prompts fewer are saved."""

_NO_MODEL = (
    "This part needs the model, and the explanation was saved without it (it was read from a file, or was one of "
    "many): explain the prompt again and save that as a page."
)
_NO_STEP = "The heads are ordered by their direct effects, which were not asked for: add the score gradient_step."


def snapshot(
    found: Explanation,
    asked: Mapping[str, Any],
    python: str,
    *,
    viewed: Viewed | None = None,
    less: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the data of a saved page: an explanation, the layers, and the heads that move the margin most.

    Args:
        found: the explanation, whose own numbers are shown.
        asked: the question as the page edits it, from `Ask.to_document`.
        python: Python that gives the same numbers.
        viewed: the lens that computed it; None when only the explanation is left, and layers and heads say so.
        less: what `without` gives.
    """
    shown = found.to_dict()
    seen = beside(shown, python, less)
    totals = seen["by_layer_and_head"]
    if sum(map(len, totals)) * len(found.sources) > _MOST_MAPS:
        for effect in shown["sources"]:
            del effect["by_layer_and_head"]
    heads: dict[str, Any] = {"failed": _NO_MODEL if viewed is None else _NO_STEP}
    layers = {"failed": _NO_MODEL}
    if viewed is not None:
        layers = _or_why_not(lambda: layers_view(viewed, Ask(viewed.lens.prompt)))
        if totals:
            heads = _heads(viewed, asked, totals)
    return {
        "mode": "saved",
        "model": shown["model"],
        "ask": asked,
        "glance": seen,
        "explanation": shown,
        "layers": layers,
        "heads": heads,
    }


def question_snapshot(viewed: Viewed, ask: Ask) -> dict[str, Any]:
    """Write the data of the page that a question gives, saved.

    Raises:
        UserError: the prompt or the answers cannot be handled.
    """
    python = recreate.python(ask, viewed.lens.model)
    return snapshot(whole(viewed, ask), ask.to_document(), python, viewed=viewed, less=without(viewed.lens, ask))


def _or_why_not(view: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A view, or why there is none: the page then says so in its place."""
    try:
        return view()
    # Linear algebra refuses numbers that are not finite with an error of its own.
    except (UserError, RuntimeError) as error:
        return {"failed": f"This could not be computed: {' '.join(str(error).split())}"}


def _heads(viewed: Viewed, asked: Mapping[str, Any], totals: list[list[float]]) -> dict[str, Any]:
    """The head that is looked at, and as many others as the page has room for, from the largest total on."""
    cells = [(abs(value), (layer, head)) for layer, row in enumerate(totals) for head, value in enumerate(row)]
    looked_at = [] if asked["layer"] is None or asked["head"] is None else [(asked["layer"], asked["head"])]
    heads: dict[str, Any] = {}
    room = _MOST_HEAD_BYTES
    for layer, head in dict.fromkeys([*looked_at, *(at for _, at in sorted(cells, reverse=True))]):
        if len(heads) == MOST_HEADS:
            break
        at = Ask(viewed.lens.prompt, layer=layer, head=head)
        view = _or_why_not(functools.partial(head_view, viewed, at))
        room -= len(json.dumps(rounded(view)))
        if heads and room < 0:
            break
        heads[f"{layer},{head}"] = view
    return heads
