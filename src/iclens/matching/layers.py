"""Layer by layer: what a linear read-out of every layer answers, beside the steps of an iterative algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.estimators.estimator import build_estimator
from iclens.matching.distances import squared_prediction_difference
from iclens.models.transformer import PromptTransformer
from iclens.tasks.prompt_batch import PromptBatch

STEPS: Mapping[str, Sequence[int]] = {
    "gradient-descent": (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
    "newton": (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12),
}
"""Numbers of steps that are compared with every layer."""


@dataclass(frozen=True)
class LayerMatch:
    """What the residual stream after a layer knows of the answers.

    Attributes:
        layer: number of layers passed, 0 for the tokens as they are read in.
        error: mean squared error of the best linear read-out of this layer, on prompts that it was not fitted to.
        steps: for each algorithm the number of steps whose answers are nearest to the read-out's.
        spd: for each algorithm the SPD at that number.
    """

    layer: int
    error: float
    steps: dict[str, int]
    spd: dict[str, float]


@torch.no_grad()
def layer_matches(
    model: PromptTransformer, fit: PromptBatch, prompt: PromptBatch, learning_rate: float | None = None
) -> list[LayerMatch]:
    """Read every layer out, and find how many steps of an algorithm it is nearest to.

    The read-out of a layer is the linear map, with a constant, from its residual stream at the answered tokens to the
    labels that is best on the prompts `fit`, by ridge regression with a penalty of 1e-6 of the mean square; each
    position has its own when the model answers every prefix. Which algorithm is near is judged on other prompts.

    Source: the comparison by layers of Akyürek et al. 2022 and of work on higher-order methods; the read-out is ours.

    Args:
        model: one run.
        fit: prompts for the read-outs, several times as many as the width.
        prompt: prompts for the comparison, with as many points.
        learning_rate: η of gradient descent in the mean convention (η/n Σ); when None the one in 0.05 … 1.6 over the
            mean square of an input, whose answers after any of the numbers of steps come nearest to the last layer.

    Raises:
        UserError: prompts of different lengths.
    """
    if fit.n_context != prompt.n_context:
        raise UserError(f"the prompts have {fit.n_context} and {prompt.n_context} demonstrations: they must be equal.")
    read_outs = [
        _read_out(before, fit.labels, after)
        for before, after in zip(_answered(model, fit), _answered(model, prompt), strict=True)
    ]
    n_answers = read_outs[0].shape[1]
    labels = prompt.labels[:, -n_answers:]
    rate = _nearest_rate(read_outs[-1], prompt) if learning_rate is None else learning_rate
    candidates = {
        name: {count: _answers(name, count, rate, prompt)[:, -n_answers:] for count in counts}
        for name, counts in STEPS.items()
    }
    matches = []
    for layer, answers in enumerate(read_outs):
        spd = {
            name: {
                count: float(squared_prediction_difference(answers, theirs).mean()) for count, theirs in found.items()
            }
            for name, found in candidates.items()
        }
        steps = {name: min(values.items(), key=lambda item: item[1])[0] for name, values in spd.items()}
        error = float(squared_prediction_difference(answers, labels).mean())
        matches.append(LayerMatch(layer, error, steps, {name: spd[name][steps[name]] for name in spd}))
    return matches


def _answered(model: PromptTransformer, prompt: PromptBatch) -> list[Tensor]:
    states = model.states(prompt.inputs.unsqueeze(0), prompt.labels.unsqueeze(0), every_token=True)
    return [state[0][:, model.answered] for state in states]


def _read_out(
    states: Float[Tensor, "batch n_answers width"],
    labels: Float[Tensor, "batch n_points d_y"],
    others: Float[Tensor, "batch_2 n_answers width"],
) -> Float[Tensor, "batch_2 n_answers d_y"]:
    targets = labels[:, -states.shape[1] :].transpose(0, 1)
    x, other = (_with_one(one.transpose(0, 1)) for one in (states, others))
    gram = x.mT @ x
    penalty = 1e-6 * gram.diagonal(dim1=-2, dim2=-1).mean(-1)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram + penalty[:, None, None] * eye, x.mT @ targets)
    return (other @ weights).transpose(0, 1)


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)


def _answers(name: str, count: int, rate: float, prompt: PromptBatch) -> Tensor:
    options = {"n_steps": count, "learning_rate": rate} if name == "gradient-descent" else {"n_steps": count}
    return build_estimator(name, options).prefixes(prompt.inputs, prompt.labels)


def _nearest_rate(answers: Tensor, prompt: PromptBatch) -> float:
    scale = float(prompt.inputs.square().mean())
    best = (float("inf"), 0.0)
    for factor in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
        rate = factor / scale
        for count in STEPS["gradient-descent"]:
            theirs = _answers("gradient-descent", count, rate, prompt)[:, -answers.shape[1] :]
            spd = float(squared_prediction_difference(answers, theirs).mean())
            if spd < best[0]:
                best = (spd, rate)
    return best[1]
