"""The ridge regression that is nearest to a model."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.estimators.ridge import Ridge
from iclens.matching.distances import squared_prediction_difference
from iclens.tasks.prompt_batch import PromptBatch

_LOW, _HIGH = 1e-6, 1e4


class RidgeFit(NamedTuple):
    """The best-fitting ridge parameter.

    Attributes:
        alpha: α with the least SPD to the model.
        spd: that SPD, the mean over prompts and answers.
        at_edge: whether α lies at an end of the searched range, so that no ridge regression with a finite penalty is
            nearest.
    """

    alpha: float
    spd: float
    at_edge: bool


def best_ridge(answers: Float[Tensor, "batch n_answers d_y"], prompt: PromptBatch) -> RidgeFit:
    """Return the α in [1e-6, 1e4] that brings ridge regression nearest to the answers of a model.

    The mean squared difference to the answers is smooth in log α; a grid finds its valley and Brent's method its
    bottom.

    Source: Akyürek et al. 2022, where it is σ²/τ² for trained models, Bayes' choice.

    Args:
        answers: the model's, to the last n_answers points of the prompts.
        prompt: the prompts.
    """
    from scipy.optimize import minimize_scalar

    def spd(log_alpha: float) -> float:
        theirs = Ridge(alpha=math.exp(log_alpha)).prefixes(prompt.inputs, prompt.labels)
        return float(squared_prediction_difference(answers, theirs[:, -answers.shape[1] :]).mean())

    grid = torch.linspace(math.log(_LOW), math.log(_HIGH), 24, dtype=torch.float64).tolist()
    values = [spd(place) for place in grid]
    best = min(range(len(grid)), key=lambda place: values[place])
    if best in (0, len(grid) - 1):
        return RidgeFit(math.exp(grid[best]), values[best], True)
    found = minimize_scalar(spd, bounds=(grid[best - 1], grid[best + 1]), method="bounded", options={"xatol": 1e-4})
    return RidgeFit(math.exp(found.x), float(found.fun), False)
