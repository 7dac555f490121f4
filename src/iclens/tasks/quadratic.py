"""Regression on the squares of the inputs."""

from __future__ import annotations

import math

from iclens.tasks.linear_in_features import LinearInFeatures
from iclens.tasks.shapes import Inputs, Phi
from iclens.tasks.task import TASKS


@TASKS.register("quadratic")
class Quadratic(LinearInFeatures):
    """y = wᵀ x² / √3 + σ z, squares entry by entry, x ~ N(0, I); the labels have the variance of `linear`, d τ².

    Source: Garg et al. 2022.

    Args:
        d: width of the inputs.
        d_y: width of the labels; their weights are independent.
        weight_std: τ, positive.
        noise_std: σ, 0 for no noise.

    Raises:
        UserError: an option out of its range.
    """

    def __init__(self, *, d: int = 20, d_y: int = 1, weight_std: float = 1.0, noise_std: float = 0.0) -> None:
        super().__init__(d=d, n_features=d, d_y=d_y, weight_std=weight_std, noise_std=noise_std)

    def features(self, inputs: Inputs) -> Phi:
        """φ(x) = x² / √3."""
        return inputs.square() / math.sqrt(3)
