"""The query layer by layer: where its representation is, and what each layer adds to the margin."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.explorer.ask import Ask
from iclens.explorer.viewed import Viewed
from iclens.lens import Lens
from iclens.lens.model.anatomy import matrix
from iclens.lens.model.placed import doubled

MOST_ANSWERS = 8


@torch.no_grad()
def layers_view(viewed: Viewed, ask: Ask) -> dict[str, Any]:
    """The last token's representation after each layer, in two dimensions, among the candidate answers.

    Each state of the residual stream goes through the final norm, as if the model ended there; an answer is the
    unembedding of its first token, scaled to the mean length of the states. Both are projected on the first two
    principal components of all these points together. What a layer adds to the margin is exact: the gradient step of
    the demonstrations, what its attention takes from the first token of the text (the sink) and from elsewhere (the
    rest of W_0, and biases), and the MLP.
    """
    lens = viewed.lens
    wanted = viewed.read_answers(MOST_ANSWERS)
    states, probabilities = _states(lens, list(wanted.values()))
    head = lens.model.anatomy.head
    assert head is not None
    rows = doubled(matrix(head)[list(wanted.values())])
    rows = rows * (states.norm(dim=-1).mean() / rows.norm(dim=-1, keepdim=True).clamp_min(torch.finfo().tiny))
    flat, explained = principal(torch.cat([states, rows]))
    names = ["embedding", *(f"layer {i}" for i in range(lens.model.n_layers))]
    step = lens.gradient_step
    pulls = viewed.pulls.sum(1)
    taught, sink = pulls[:, :-2].sum(-1), pulls[:, -2]
    elsewhere = pulls[:, -1] + step.attention_bias.cpu().double()
    return {
        "token": lens.tokenized.texts[-1],
        "states": [
            {"name": name, "x": float(point[0]), "y": float(point[1]), "probabilities": row.tolist()}
            for name, point, row in zip(names, flat, probabilities, strict=False)
        ],
        "answers": [
            {"text": text, "x": float(point[0]), "y": float(point[1])}
            for text, point in zip(wanted, flat[len(states) :], strict=True)
        ],
        "explained_variance": explained,
        "layers": [
            {"gradient_step": float(direct), "first": float(first), "initial": float(other), "mlp": float(mlp)}
            for direct, first, other, mlp in zip(taught, sink, elsewhere, step.mlp.cpu().double(), strict=True)
        ],
        "embedding": float(step.embedding),
        "bias": float(step.bias),
        "margin": float(step.margin),
        "answer": lens.answer.text,
    }


def _states(lens: Lens, ids: list[int]) -> tuple[Tensor, Tensor]:
    """The last token's states before the unembedding, and what each would say of the answers' first tokens.

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
    return doubled(stream), torch.softmax(doubled(logits), -1)[:, ids]


def principal(
    points: Float[Tensor, "n width"],
) -> tuple[Float[Tensor, "n 2"], list[float]]:
    """Points on their first two principal components, and the shares of the variance that these carry.

    The sign of a component is such that its largest loading is positive, so that small edits do not mirror the plot.
    """
    centred = points - points.mean(0)
    _, sizes, directions = torch.linalg.svd(centred, full_matrices=False)
    first = directions[:2]
    largest = first.gather(1, first.abs().argmax(1, keepdim=True))
    first = first * torch.where(largest < 0, -1.0, 1.0)
    total = float(sizes.square().sum())
    shares = [float(size**2) / total if total > 0 else 0.0 for size in sizes[:2]]
    flat = centred @ first.T
    if flat.shape[1] < 2:
        flat = torch.cat([flat, torch.zeros_like(flat)], 1)
    return flat, [*shares, 0.0][:2]
