"""Everything that a saved page shows: an explanation, and what its lens adds without another pass."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

import torch

from iclens.errors import UserError
from iclens.explorer import recreate
from iclens.explorer.ask import Ask
from iclens.explorer.glance import beside, whole, without
from iclens.explorer.head_view import head_view
from iclens.explorer.layers_view import layers_view
from iclens.explorer.page import rounded
from iclens.explorer.viewed import Viewed
from iclens.lens import Explanation
from iclens.lens.scored import BY_WEIGHT

MOST_HEADS = 12
_MOST_MAPS = 8_000
"""Numbers of the maps of single demonstrations that are still saved."""
_MOST_HEAD_BYTES = 170_000
"""What heads may take of the page together: with long prompts fewer are saved."""

_NO_MODEL = (
    "This part needs the model, and the explanation was saved without it (it was read from a file, or was one of "
    "many): explain the prompt again and save that as a page."
)
_NO_MAP = (
    "The heads are ordered by what they do to the logit difference, and no score that was asked for tells it: add the "
    "score influence or gradient_step."
)


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
    seen = beside(shown, python, less) | {"maps": {name: found.total_by_layer_and_head(name) for name in BY_WEIGHT}}
    _bound(shown["sources"], found.scores)
    if len(found.sources) ** 2 > _MOST_MAPS and shown["patch"]:
        shown["patch"]["cosines"] = ()
    totals = [one for one in (seen["by_layer_and_head"], *seen["maps"].values()) if one]
    heads: dict[str, Any] = {"failed": _NO_MODEL if viewed is None else _NO_MAP}
    layers = {"failed": _NO_MODEL}
    if viewed is not None:
        layers = _or_why_not(lambda: layers_view(viewed, Ask(viewed.lens.prompt)))
        if totals:
            heads = _heads(viewed, asked, totals)
    return {
        "mode": "saved",
        "model": shown["model"],
        "date": date.today().isoformat(),
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


def _bound(sources: Sequence[dict[str, Any]], scores: Sequence[str]) -> None:
    """Leave out the maps of single demonstrations for which a page has no room; those of the first scores stay."""
    room = _MOST_MAPS
    for name in scores:
        held = [(one, "by_layer_and_head") if name == "gradient_step" else (one["maps"], name) for one in sources]
        size = sum(len(row) for maps, key in held for row in maps.get(key, ()))
        if size <= room:
            room -= size
        else:
            for maps, key in held:
                del maps[key]


def _heads(viewed: Viewed, asked: Mapping[str, Any], totals: Sequence[Sequence[Sequence[float]]]) -> dict[str, Any]:
    """The head that is looked at, and as many others as the page has room for, from the strongest in any map on."""
    sizes = torch.tensor(totals, dtype=torch.float64).abs()
    # Each map is told by its own colours, whatever its size.
    shown = (sizes / sizes.amax((1, 2), keepdim=True).clamp_min(torch.finfo().tiny)).amax(0).tolist()
    cells = [(value, (layer, head)) for layer, row in enumerate(shown) for head, value in enumerate(row)]
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
