"""Everything that a saved page shows, computed once."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from iclens.explorer.ask import Ask
from iclens.explorer.glance import explanation, glance
from iclens.explorer.head_view import head_view
from iclens.explorer.layers_view import layers_view
from iclens.explorer.page import rounded
from iclens.lens.loading import LensModel

MOST_HEADS = 12
_MOST_MAPS = 8_000
"""Numbers of the maps of single demonstrations that are still saved."""
_MOST_HEAD_BYTES = 200_000
"""What heads may take of the page together: with long prompts fewer are saved."""


def snapshot(lens_model: LensModel, ask: Ask, facts: dict[str, Any]) -> dict[str, Any]:
    """The data of a saved page: the explanation, the layers, and the heads that move the margin most.

    Raises:
        UserError: the prompt or the answers cannot be handled.
    """
    seen = glance(lens_model, ask)
    whole = explanation(lens_model, ask)
    cells = [
        (abs(value), (layer, head))
        for layer, row in enumerate(seen["by_layer_and_head"])
        for head, value in enumerate(row)
    ]
    if len(cells) * len(seen["demonstrations"]) > _MOST_MAPS:
        for effect in seen["demonstrations"]:
            del effect["by_layer_and_head"]
    # The page takes what both hold from the glance.
    for effect in whole["demonstrations"]:
        del effect["by_layer_and_head"]
    for name in ("tokens", "next_tokens", "prompt", "command"):
        del whole[name]
    return {
        "mode": "saved",
        "model": facts,
        "ask": question(ask),
        "glance": seen,
        "explanation": whole,
        "layers": layers_view(lens_model, ask),
        "heads": _heads(lens_model, ask, [at for _, at in sorted(cells, reverse=True)]),
    }


def _heads(lens_model: LensModel, ask: Ask, order: list[tuple[int, int]]) -> dict[str, Any]:
    """The head that is looked at, and as many of the others, in their order, as the page has room for."""
    looked_at = [] if ask.layer is None or ask.head is None else [(ask.layer, ask.head)]
    heads: dict[str, Any] = {}
    room = _MOST_HEAD_BYTES
    for layer, head in dict.fromkeys([*looked_at, *order]):
        if len(heads) == MOST_HEADS:
            break
        view = head_view(lens_model, dataclasses.replace(ask, layer=layer, head=head))
        room -= len(json.dumps(rounded(view)))
        if heads and room < 0:
            break
        heads[f"{layer},{head}"] = view
    return heads


def question(ask: Ask) -> dict[str, Any]:
    """The question as the page edits it: blocks of text."""
    prompt = ask.prompt
    return {
        "instruction": "" if prompt.instruction is None else prompt.instruction.of(prompt.text),
        "demonstrations": [span.of(prompt.text) for span in prompt.demonstrations],
        "query": prompt.query.of(prompt.text),
        "answers": list(ask.answers),
        "answer": ask.answer,
        "off": list(ask.off),
        "layer": ask.layer,
        "head": ask.head,
    }
