"""One head as its dual model: what it is trained on, and what the training does to its prediction."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iclens.dual import DualModel
from iclens.errors import UserError
from iclens.explorer.ask import Ask
from iclens.explorer.bound_view import bound_view, number
from iclens.explorer.glance import begin, read_answers
from iclens.kernels import Kernel
from iclens.kernels.softcapped import SoftcappedKernel
from iclens.lens.model.loading import LensModel
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.answered import Answered, by_group, read_margin
from iclens.lens.read.attend import fast
from iclens.lens.read.capture import run
from iclens.lens.read.readout import Readout
from iclens.lens.scores.gradient_step import gradient_step

MOST_PAIRS = 24
MOST_ANSWERS = 6


@dataclass(frozen=True)
class Common:
    """What the views of all heads of one prompt share.

    Attributes:
        answered: the answer.
        pulls: what each demonstration adds to the margin through each head, directly: the map, (n_layers, n_heads,
            n_demonstrations).
        initial: the same of all other tokens together, (n_layers, n_heads).
        readings: for each answer that is read out, what each token adds to the logit of its first token, (n_layers,
            n_heads, n).
    """

    answered: Answered
    pulls: Tensor
    initial: Tensor
    readings: dict[str, Tensor]

    @classmethod
    def of(cls, lens_model: LensModel, ask: Ask) -> Common:
        """Run the model once on the prompt, with every demonstration."""
        answered = begin(lens_model, ask)
        last = answered.tokenized.n_tokens - 1
        wanted = read_answers(lens_model, answered, MOST_ANSWERS)
        readouts = {text: Readout(((last, index, 1.0),)) for text, index in wanted.items()}
        # Not from the readings: where answers begin alike, the margin is read behind the answer's own tokens.
        read = read_margin(lens_model, answered)
        direct = gradient_step(read.traced).contributions.double()
        return cls(
            answered,
            by_group(direct, read.groups, answered.tokenized.n_demonstrations),
            direct[..., read.groups < 0].sum(-1),
            {
                text: gradient_step(dataclasses.replace(answered.first, readout=readout)).contributions
                for text, readout in readouts.items()
            },
        )


def head_view(lens_model: LensModel, ask: Ask, common: Common | None = None) -> dict[str, Any]:
    """The dual model of one head for the prompt's last token, where the answer is read.

    With h' the head's output, ŷ_t = W_0 φ(q) + the parts of the first t demonstrations, D held at its value: the
    trajectory is ‖ŷ_t − h'‖, from W_0 alone to all demonstrations, and it ends at rounding. Everything is computed in
    float64 from the model's own q, k and v; h' is the model's own.

    Args:
        lens_model: the model.
        ask: the prompt, the layer and the head.
        common: what was computed for another head of the same prompt.

    Raises:
        UserError: the prompt cannot be handled, or there is no such layer or head.
    """
    layer, head = _checked(lens_model, ask)
    common = Common.of(lens_model, ask) if common is None else common
    answered = common.answered
    tokenized = answered.tokenized
    dual, output = _dual(lens_model, answered, layer, head)
    weights = dual.weights()[0]
    parts = dual.contributions()[0]
    initial = dual.initial()[0]
    walked = torch.cat([initial[None], initial + parts.cumsum(0)])
    loss, alignment = dual.loss(log=True), dual.alignment()
    readings = {text: pulls[layer, head].double() for text, pulls in common.readings.items()}
    pulls = common.pulls[layer, head].tolist()
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
        "initial": {
            "weight": float(1.0 - weights.sum()),
            "size": float(initial.norm()),
            "pull": float(common.initial[layer, head]),
        },
        "prediction_size": float(dual.predict()[0].norm()),
        "pairs": _pairs(answered, dual, readings),
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


@torch.no_grad()
def _dual(lens_model: LensModel, answered: Answered, layer: int, head: int) -> tuple[DualModel, Tensor]:
    """The head's dual model at the last token, and the head's own output there, in float64."""
    wanted = lens_model.anatomy.layers[layer].attention_name
    kept: list[tuple[AttentionCall, Tensor]] = []

    def keep(call: AttentionCall) -> Tensor:
        output = fast(call)
        if call.name == wanted:
            kept.append((call, output[0, head, -1].double()))
        return output

    with attending(lens_model, keep):
        run(lens_model, answered.first.input_ids[None])
    call, output = kept[0]
    n = call.q.shape[2]
    q = call.q[0, head, -1:].double()
    k, v = (tensor[0, head // call.groups].double() for tensor in (call.k, call.v))
    kernel: str | Kernel = "softmax"
    scale: float | None = call.scale
    if call.softcap is not None:
        kernel, scale = SoftcappedKernel(call.scale, call.softcap), None
    mask = call.rows(n - 1)[0, 0]
    return DualModel.from_attention(q, k, v, answered.tokenized.groups, mask, scale, kernel=kernel), output


def _pairs(answered: Answered, dual: DualModel, readings: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The training pairs (key → positive) with the largest coefficients."""
    groups = answered.tokenized.groups
    coefficients = dual.coefficients[0]
    order = torch.where(groups >= 0, coefficients, -1.0).argsort(descending=True)[:MOST_PAIRS].tolist()
    return [
        {
            "token": i,
            "text": answered.tokenized.texts[i],
            "part": int(groups[i]),
            "weight": float(coefficients[i]),
            "size": float(dual.v[i].norm()),
            "pulls": [float(pull[i]) for pull in readings.values()],
        }
        for i in order
        if groups[i] >= 0 and coefficients[i] > 0
    ]
