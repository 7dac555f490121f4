"""The query layer by layer: what each layer adds to the margin, and what the model would say after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iclens.explorer.ask import Ask
from iclens.explorer.viewed import Viewed
from iclens.lens import Lens
from iclens.lens.model.placed import doubled

MOST_ANSWERS = 8


@torch.no_grad()
def layers_view(viewed: Viewed, ask: Ask) -> dict[str, Any]:
    """Show what every layer adds to the margin, the margin as it builds up, and the answers' probabilities after it.

    What a layer adds is exact: the gradient step of the demonstrations, what its attention takes from the first token
    of the text (the sink) and from elsewhere (the rest of W_0, and biases), and the MLP. `"margins"` are the running
    sums: embedding and biases, then with each layer; the last one is the margin. The probabilities read each state of
    the residual stream through the final norm, as if the model ended there.
    """
    lens = viewed.lens
    wanted = viewed.read_answers(MOST_ANSWERS)
    probabilities = _probabilities(lens, list(wanted.values()))
    names = ["embedding", *(f"layer {i}" for i in range(lens.model.n_layers))]
    step = lens.gradient_step
    pulls = viewed.pulls.sum(1)
    taught, sink = pulls[:, :-2].sum(-1), pulls[:, -2]
    elsewhere = pulls[:, -1] + step.attention_bias.cpu().double()
    mlp = step.mlp.cpu().double()
    start = (step.embedding + step.bias).cpu().double().reshape(1)
    margins = torch.cat([start, taught + sink + elsewhere + mlp]).cumsum(0)
    return {
        "token": lens.tokenized.texts[-1],
        "states": [
            {"name": name, "probabilities": row.tolist()} for name, row in zip(names, probabilities, strict=True)
        ],
        "answers": [{"text": text} for text in wanted],
        "margins": margins.tolist(),
        "layers": [
            {"gradient_step": float(direct), "first": float(first), "initial": float(other), "mlp": float(after)}
            for direct, first, other, after in zip(taught, sink, elsewhere, mlp, strict=True)
        ],
        "embedding": float(step.embedding),
        "bias": float(step.bias),
        "margin": float(step.margin),
        "answer": lens.answer.text,
    }


def _probabilities(lens: Lens, ids: list[int]) -> Tensor:
    """What each state of the last token would say of the answers' first tokens, (n_layers + 1, n_answers).

    The last row is the model's own answer.
    """
    anatomy, traced = lens.model.anatomy, lens.traced
    assert anatomy.head is not None
    layers = [layer.module for layer in anatomy.layers]
    stream = torch.stack([*(traced.inputs[layer][0, 0] for layer in layers), traced.outputs[layers[-1]][0, 0]])
    for module in (anatomy.final_norm, anatomy.projection):
        stream = stream if module is None else module(stream)
    logits = anatomy.head(stream)
    # The model's own logits: it may cap or scale what its unembedding gives.
    logits[-1] = traced.logits[0, 0]
    return torch.softmax(doubled(logits), -1)[:, ids]
