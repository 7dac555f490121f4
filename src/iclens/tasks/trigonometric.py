"""Regression on sines and cosines of the inputs."""

from __future__ import annotations

import torch

from iclens.tasks.linear_in_features import LinearInFeatures
from iclens.tasks.options import require_counts, require_positive
from iclens.tasks.shapes import Inputs, Phi
from iclens.tasks.task import TASKS


@TASKS.register("trigonometric")
class Trigonometric(LinearInFeatures):
    """y = wᵀ φ(x) + σ z with sin(j ω x_i) for every coordinate i and every j up to `n_frequencies`, and cos if asked.

    Args:
        d: width of the inputs.
        d_y: width of the labels; their weights are independent.
        n_frequencies: how many multiples of ω.
        frequency: ω, positive.
        cosines: whether cos(j ω x_i) are features too.
        weight_std: τ, positive.
        noise_std: σ, 0 for no noise.
        inputs: `uniform` for independent coordinates from U(−s, s), `normal` for x ~ N(0, s² I).
        input_scale: s, positive.

    Raises:
        UserError: an option out of its range.
    """

    def __init__(
        self,
        *,
        d: int = 10,
        d_y: int = 1,
        n_frequencies: int = 1,
        frequency: float = 1.0,
        cosines: bool = False,
        weight_std: float = 1.0,
        noise_std: float = 0.0,
        inputs: str = "uniform",
        input_scale: float = 1.0,
    ) -> None:
        require_counts(n_frequencies=n_frequencies)
        require_positive(frequency=frequency)
        super().__init__(
            d=d,
            n_features=d * n_frequencies * (2 if cosines else 1),
            d_y=d_y,
            weight_std=weight_std,
            noise_std=noise_std,
            inputs=inputs,
            input_scale=input_scale,
        )
        self.n_frequencies, self.frequency, self.cosines = n_frequencies, frequency, cosines

    def features(self, inputs: Inputs) -> Phi:
        """φ(x): sin(ω x_1), …, sin(ω x_d), sin(2 ω x_1), …, and then the cosines in the same order."""
        angles = torch.cat([j * self.frequency * inputs for j in range(1, self.n_frequencies + 1)], -1)
        return torch.cat([angles.sin(), angles.cos()], -1) if self.cosines else angles.sin()
