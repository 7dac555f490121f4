"""The query layer by layer: where its representation is, and what each layer adds to the margin."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.explorer.ask import Ask
from iclens.explorer.glance import begin, read_answers
from iclens.huggingface import implementation
from iclens.lens.model.anatomy import matrix
from iclens.lens.model.loading import LensModel
from iclens.lens.read.answered import Answered, by_group, read_margin
from iclens.lens.read.capture import run
from iclens.lens.scores.gradient_step import gradient_step

MOST_ANSWERS = 8


@torch.no_grad()
def layers_view(lens_model: LensModel, ask: Ask) -> dict[str, Any]:
    """The last token's representation after each layer, in two dimensions, among the candidate answers.

    Each state of the residual stream goes through the final norm, as if the model ended there; an answer is the
    unembedding of its first token, scaled to the mean length of the states. Both are projected on the first two
    principal components of all these points together. What a layer adds to the margin is exact: the gradient step of
    the demonstrations, what its attention takes from elsewhere (W_0 and biases), and the MLP.

    Raises:
        UserError: the prompt or the answers cannot be handled.
    """
    answered = begin(lens_model, ask)
    tokenized = answered.tokenized
    wanted = read_answers(lens_model, answered, MOST_ANSWERS)
    states, probabilities = _states(lens_model, answered, list(wanted.values()))
    head = lens_model.anatomy.head
    assert head is not None
    rows = matrix(head)[list(wanted.values())].double()
    rows = rows * (states.norm(dim=-1).mean() / rows.norm(dim=-1, keepdim=True).clamp_min(torch.finfo().tiny))
    flat, explained = principal(torch.cat([states, rows]))
    names = ["embedding", *(f"layer {i}" for i in range(lens_model.n_layers))]
    read = read_margin(lens_model, answered)
    step = gradient_step(read.traced)
    direct = step.contributions.double()
    demonstrations = by_group(direct, read.groups, tokenized.n_demonstrations).sum((1, 2))
    elsewhere = direct.sum((1, 2)) - demonstrations + step.attention_bias.double()
    return {
        "token": tokenized.texts[-1],
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
            {"gradient_step": float(taught), "initial": float(other), "mlp": float(mlp)}
            for taught, other, mlp in zip(demonstrations, elsewhere, step.mlp.double(), strict=True)
        ],
        "embedding": step.embedding,
        "bias": step.bias,
        "margin": step.margin,
        "answer": answered.margin.answer,
    }


def _states(lens_model: LensModel, answered: Answered, ids: list[int]) -> tuple[Tensor, Tensor]:
    """The last token's states before the unembedding, and what each would say of the answers' first tokens.

    The last row is the model's own answer.
    """
    anatomy = lens_model.anatomy
    assert anatomy.head is not None
    n = answered.tokenized.n_tokens
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append((output[0] if isinstance(output, tuple) else output).reshape(n, -1)[-1])

    handles = [layer.module.register_forward_hook(keep) for layer in anatomy.layers]
    try:
        with implementation(lens_model.model, None):
            run(lens_model, answered.first.input_ids[None])
            stream = torch.stack([answered.first.inputs[anatomy.layers[0].module].reshape(-1), *outputs])
            for module in (anatomy.final_norm, anatomy.projection):
                stream = stream if module is None else module(stream)
            logits = anatomy.head(stream)
    finally:
        for handle in handles:
            handle.remove()
    # The model's own logits: it may cap or scale what its unembedding gives.
    logits[-1] = answered.first.logits[0]
    return stream.double(), torch.softmax(logits.double(), -1)[:, ids]


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
