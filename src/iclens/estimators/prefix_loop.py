"""The plain way to answer every prefix: one after another. The reference of the fast ways, and the only way of some."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iclens.tasks.shapes import Inputs, Labels


def by_prefix(
    answer: Callable[[Tensor, Tensor, Tensor], Tensor],
    inputs: Inputs,
    labels: Labels,
) -> Labels:
    """Ask `answer(xs, ys, query)` prefix by prefix, all prompts at once.

    Args:
        answer: takes (..., i, d), (..., i, d_y) and (..., 1, d) and gives (..., 1, d_y), for i ≥ 1.
        inputs: the points.
        labels: their labels.
    """
    answers = [torch.zeros_like(labels[..., :1, :])]
    for i in range(1, inputs.shape[-2]):
        answers.append(answer(inputs[..., :i, :], labels[..., :i, :], inputs[..., i : i + 1, :]))
    return torch.cat(answers, -2)


def by_prompt_and_prefix(
    answer: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    inputs: Inputs,
    labels: Labels,
    queries: Iterable[int] | None = None,
) -> Float[Tensor, "*batch n_queries d_y"]:
    """Ask `answer(xs, ys, query)` for one prompt, one prefix and one output at a time, in float64 arrays.

    What it gives has no gradient.

    Args:
        answer: takes (i, d), (i,) and (1, d) and gives a number, for i ≥ 1.
        inputs: the points.
        labels: their labels.
        queries: indices of the points to predict; None for all.
    """
    x, y = (tensor.detach().cpu().double().reshape(-1, *tensor.shape[-2:]).numpy() for tensor in (inputs, labels))
    asked = list(range(y.shape[1]) if queries is None else queries)
    answers = np.zeros((y.shape[0], len(asked), y.shape[2]))
    for b, (place, i), output in itertools.product(range(len(y)), enumerate(asked), range(y.shape[2])):
        if i > 0:
            answers[b, place, output] = answer(x[b, :i], y[b, :i, output], x[b, i : i + 1])
    return torch.from_numpy(answers).to(labels).reshape(*labels.shape[:-2], len(asked), labels.shape[-1])
