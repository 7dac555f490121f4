"""Regression on random features, fixed over prompts."""

from __future__ import annotations

import math

import torch

from iclens.tasks.draws import fixed_normal
from iclens.tasks.linear_in_features import LinearInFeatures
from iclens.tasks.options import require_one_of, require_positive
from iclens.tasks.shapes import Inputs, Phi
from iclens.tasks.task import TASKS

ACTIVATIONS = ("cos", "relu")


@TASKS.register("random-features")
class RandomFeatures(LinearInFeatures):
    """y = wᵀ φ(x) + σ z with φ(x) = √(2/D) a(Ω x / ℓ + b), D = `n_features`, Ω ~ N(0, 1) fixed by the seed.

    With a = `cos` and b ~ U(0, 2π) the functions tend to a Gaussian process with the Gaussian kernel of length ℓ as D
    grows; with a = `relu`, b = 0, they are two-layer networks whose first layer is fixed.

    Args:
        d: width of the inputs.
        n_features: D.
        d_y: width of the labels; their weights are independent.
        activation: `cos` or `relu`.
        length_scale: ℓ, positive.
        weight_std: τ, positive.
        noise_std: σ, 0 for no noise.
        inputs: `normal` for x ~ N(0, s² I), `uniform` for independent coordinates from U(−s, s).
        input_scale: s, positive.
        seed: of Ω and b.

    Raises:
        UserError: an option out of its range.
    """

    def __init__(
        self,
        *,
        d: int = 5,
        n_features: int = 20,
        d_y: int = 1,
        activation: str = "cos",
        length_scale: float = 1.0,
        weight_std: float = 1.0,
        noise_std: float = 0.0,
        inputs: str = "normal",
        input_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            d=d,
            n_features=n_features,
            d_y=d_y,
            weight_std=weight_std,
            noise_std=noise_std,
            inputs=inputs,
            input_scale=input_scale,
        )
        require_one_of("activation", activation, ACTIVATIONS)
        require_positive(length_scale=length_scale)
        self.activation, self.length_scale, self.seed = activation, length_scale, seed
        drawn = fixed_normal(seed, d + 1, n_features)
        # Φ of a normal number is uniform: one draw gives both the directions and the phases.
        self._directions, self._phases = drawn[:d] / length_scale, 2 * math.pi * torch.special.ndtr(drawn[d])

    def features(self, inputs: Inputs) -> Phi:
        """φ(x)."""
        projected = inputs @ self._directions.to(inputs)
        active = (projected + self._phases.to(inputs)).cos() if self.activation == "cos" else projected.relu()
        return math.sqrt(2 / self.n_features) * active
