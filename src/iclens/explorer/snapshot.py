"""Everything that a saved page shows, computed once."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

from iclens.errors import UserError
from iclens.explorer.ask import Ask
from iclens.explorer.glance import explanation, glance
from iclens.explorer.head_view import head_view
from iclens.explorer.layers_view import layers_view
from iclens.explorer.page import rounded
from iclens.explorer.viewed import Viewed
from iclens.lens import LensModel

MOST_HEADS = 12
_MOST_MAPS = 8_000
"""Numbers of the maps of single demonstrations that are still saved."""
_MOST_HEAD_BYTES = 200_000
"""What heads may take of the page together: with long prompts fewer are saved."""


def snapshot(viewed: Viewed, ask: Ask, found: dict[str, Any] | None = None) -> dict[str, Any]:
    """The data of a saved page: the explanation, the layers, and the heads that move the margin most.

    Args:
        viewed: the lens of the prompt.
        ask: what is asked.
        found: the explanation as plain data where it was computed already; its own numbers are shown.

    Raises:
        UserError: the prompt or the answers cannot be handled.
    """
    seen = glance(viewed, ask)
    whole = explanation(viewed, ask) if found is None else found
    cells = [
        (abs(value), (layer, head))
        for layer, row in enumerate(seen["by_layer_and_head"])
        for head, value in enumerate(row)
    ]
    if len(cells) * len(seen["demonstrations"]) > _MOST_MAPS:
        for effect in seen["demonstrations"]:
            del effect["by_layer_and_head"]
    # The page takes what both hold from the glance.
    for effect in whole["sources"]:
        del effect["by_layer_and_head"]
    whole["tokens"] = [{"path": token["path"]} for token in whole["tokens"]]
    seen["next_tokens"] = whole.pop("next_tokens")
    seen["command"] = whole.pop("command") or seen["command"]
    del whole["prompt"]
    return {
        "mode": "saved",
        "model": facts_of(viewed.lens.model),
        "ask": ask.to_document(),
        "glance": seen,
        "explanation": whole,
        "layers": _or_why_not(lambda: layers_view(viewed, ask)),
        "heads": _heads(viewed, ask, [at for _, at in sorted(cells, reverse=True)]),
    }


def facts_of(lens_model: LensModel) -> dict[str, Any]:
    """What the page says of the model."""
    return {
        "name": lens_model.name,
        "family": lens_model.family.name,
        "n_layers": lens_model.n_layers,
        "n_heads": lens_model.n_heads,
        "n_parameters": lens_model.n_parameters,
        "context_length": lens_model.context_length,
    }


def _or_why_not(view: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A view, or why there is none: the page then says so in its place."""
    try:
        return view()
    # Linear algebra refuses numbers that are not finite with an error of its own.
    except (UserError, RuntimeError) as error:
        return {"failed": f"This could not be computed: {' '.join(str(error).split())}"}


def _heads(viewed: Viewed, ask: Ask, order: list[tuple[int, int]]) -> dict[str, Any]:
    """The head that is looked at, and as many of the others, in their order, as the page has room for."""
    looked_at = [] if ask.layer is None or ask.head is None else [(ask.layer, ask.head)]
    heads: dict[str, Any] = {}
    room = _MOST_HEAD_BYTES
    for layer, head in dict.fromkeys([*looked_at, *order]):
        if len(heads) == MOST_HEADS:
            break
        at = dataclasses.replace(ask, layer=layer, head=head)
        view = _or_why_not(functools.partial(head_view, viewed, at))
        room -= len(json.dumps(rounded(view)))
        if heads and room < 0:
            break
        heads[f"{layer},{head}"] = view
    return heads
