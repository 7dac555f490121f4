"""Regression on exponentials of the inputs."""

from __future__ import annotations

import math

from iclens.errors import UserError
from iclens.tasks.linear_in_features import LinearInFeatures
from iclens.tasks.shapes import Inputs, Phi
from iclens.tasks.task import TASKS


@TASKS.register("exponential")
class Exponential(LinearInFeatures):
    """y = wᵀ e^(ρ x) + σ z, exponentials entry by entry.

    Args:
        d: width of the inputs.
        d_y: width of the labels; their weights are independent.
        rate: ρ, not 0.
        weight_std: τ, positive.
        noise_std: σ, 0 for no noise.
        inputs: `uniform` for independent coordinates from U(−s, s), `normal` for x ~ N(0, s² I), whose exponentials
            have heavy tails.
        input_scale: s, positive.

    Raises:
        UserError: an option out of its range.
    """

    def __init__(
        self,
        *,
        d: int = 10,
        d_y: int = 1,
        rate: float = 1.0,
        weight_std: float = 1.0,
        noise_std: float = 0.0,
        inputs: str = "uniform",
        input_scale: float = 1.0,
    ) -> None:
        super().__init__(
            d=d,
            n_features=d,
            d_y=d_y,
            weight_std=weight_std,
            noise_std=noise_std,
            inputs=inputs,
            input_scale=input_scale,
        )
        if rate == 0 or not math.isfinite(rate):
            raise UserError(f"rate={rate} must be finite and not 0.")
        self.rate = rate

    def features(self, inputs: Inputs) -> Phi:
        """φ(x) = e^(ρ x)."""
        return (self.rate * inputs).exp()
