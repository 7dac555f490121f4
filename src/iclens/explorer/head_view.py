"""One head as its dual model: what it is trained on, and what the training does to its prediction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iclens.dual import DualModel
from iclens.errors import UserError
from iclens.explorer.ask import Ask
from iclens.explorer.bound_view import bound_view, number
from iclens.explorer.viewed import Viewed
from iclens.lens import Lens, LensModel
from iclens.lens.model.placed import doubled
from iclens.lens.prompt.tokens import FIRST

MOST_PAIRS = 24
MOST_ANSWERS = 6


def head_view(viewed: Viewed, ask: Ask) -> dict[str, Any]:
    """The dual model of one head for the prompt's last token, where the answer is read.

    With h' the head's output, ŷ_t = W_0 φ(q) + the parts of the first t demonstrations, D held at its value: the
    trajectory is ‖ŷ_t − h'‖, from W_0 alone to all demonstrations, and it ends at rounding. Everything is computed in
    float64 from the model's own q, k and v; h' is the model's own.

    Args:
        viewed: the lens of the prompt.
        ask: the layer and the head.

    Raises:
        UserError: there is no such layer or head.
    """
    lens = viewed.lens
    layer, head = _checked(lens.model, ask)
    tokenized = lens.tokenized
    record = lens.traced.layers[layer]
    # The first position that is read is the prompt's last token, whatever of an answer follows it.
    dual = record.dual(head, lens.groups, rows=slice(0, 1), dtype=torch.float64)
    output = doubled(record.output[0, head, 0])
    weights = dual.weights()[0]
    parts = dual.contributions()[0]
    initial = dual.initial()[0]
    walked = torch.cat([initial[None], initial + parts.cumsum(0)])
    loss, alignment = dual.loss(log=True), dual.alignment()
    readings = {text: pulls[layer, head] for text, pulls in viewed.readings(MOST_ANSWERS).items()}
    *pulls, first, rest = viewed.pulls[layer, head].tolist()
    sink = float(dual.coefficients[0, 0]) if tokenized.roles[0] == FIRST else 0.0
    return {
        "layer": layer,
        "head": head,
        "token": tokenized.texts[-1],
        "readings": list(readings),
        "demonstrations": [
            {
                "index": i,
                "text": span.of(tokenized.prompt.text),
                "weight": float(weights[i]),
                "size": float(parts[i].norm()),
                "alignment_before": float(alignment.before[0, i]),
                "alignment_after": float(alignment.after[0, i]),
                "pull": pulls[i],
            }
            for i, span in enumerate(tokenized.prompt.demonstrations)
        ],
        # Both are where the training starts from, W_0.
        "first": {"text": tokenized.texts[0], "weight": sink, "pull": first},
        "initial": {"weight": float(1.0 - weights.sum()) - sink, "pull": rest},
        "initial_size": float(initial.norm()),
        "prediction_size": float(dual.predict()[0].norm()),
        "pairs": _pairs(lens, dual, readings),
        "loss_before": number(loss.before),
        "loss_after": number(loss.after),
        "alignment_before": float(alignment.before.mean()),
        "alignment_after": float(alignment.after.mean()),
        "collapse_before": float(alignment.collapse_before),
        "collapse_after": float(alignment.collapse_after),
        "trajectory": (walked - output).norm(dim=-1).tolist(),
        "bound": bound_view(dual),
        "residual": float((dual.predict()[0] - output).norm() / output.norm().clamp_min(torch.finfo().tiny)),
    }


def _checked(lens_model: LensModel, ask: Ask) -> tuple[int, int]:
    if ask.layer is None or ask.head is None:
        raise UserError("choose a head: give 'layer' and 'head', counted from 0.")
    if ask.layer >= lens_model.n_layers or ask.head >= lens_model.n_heads:
        raise UserError(
            f"there is no head {ask.head} in layer {ask.layer}: {lens_model.name} has {lens_model.n_layers} layers of "
            f"{lens_model.n_heads} heads, counted from 0."
        )
    return ask.layer, ask.head


def _pairs(lens: Lens, dual: DualModel, readings: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The training pairs (key → positive) with the largest coefficients."""
    groups = lens.groups
    # A learned sink is a pair after all tokens.
    coefficients = dual.coefficients[0, : len(groups)]
    order = torch.where(groups >= 0, coefficients, -1.0).argsort(descending=True)[:MOST_PAIRS].tolist()
    return [
        {
            "token": i,
            "text": lens.tokenized.texts[i],
            "part": int(groups[i]),
            "weight": float(coefficients[i]),
            "size": float(dual.v[i].norm()),
            "pulls": [float(pull[i]) for pull in readings.values()],
        }
        for i in order
        if groups[i] >= 0 and coefficients[i] > 0
    ]
