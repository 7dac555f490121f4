"""Regression over a fixed nonlinear representation of the inputs."""

from __future__ import annotations

import math

from torch.nn.functional import leaky_relu, normalize

from iclens.tasks.draws import fixed_normal
from iclens.tasks.linear_in_features import LinearInFeatures
from iclens.tasks.options import require_at_least_zero, require_counts
from iclens.tasks.shapes import Inputs, Phi
from iclens.tasks.task import TASKS


@TASKS.register("representation")
class Representation(LinearInFeatures):
    """y = wᵀ Φ*(x) + σ z with Φ* a fixed leaky-ReLU network, its output scaled to norm 1, and w ~ N(0, τ² I).

    All layers have the activation, none a bias. Their weights are N(0, 1/fan-in) and depend on the seed alone. Since
    ‖Φ*‖ = 1, E y² = τ² + σ² at any width.

    Source: Guo et al. 2023; the widths, the slope and the law of the layers' weights are our choice.

    Args:
        d: width of the inputs, which are N(0, I).
        n_features: width of all layers.
        n_layers: how many layers.
        slope: of the leaky ReLU below 0, at most 1 (linear).
        d_y: width of the labels; their weights are independent.
        weight_std: τ, positive.
        noise_std: σ, 0 for no noise.
        seed: of Φ*.

    Raises:
        UserError: an option out of its range.
    """

    source = "Guo et al. 2023: ridge regression on the representation"

    def __init__(
        self,
        *,
        d: int = 20,
        n_features: int = 20,
        n_layers: int = 2,
        slope: float = 0.01,
        d_y: int = 1,
        weight_std: float = 1.0,
        noise_std: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(d=d, n_features=n_features, d_y=d_y, weight_std=weight_std, noise_std=noise_std)
        require_counts(n_layers=n_layers)
        require_at_least_zero(slope=slope)
        self.n_layers, self.slope, self.seed = n_layers, slope, seed
        widths = [d] + [n_features] * n_layers
        drawn = fixed_normal(seed, sum(widths[:-1]), n_features).split(widths[:-1])
        self._layers = [layer / math.sqrt(len(layer)) for layer in drawn]

    def features(self, inputs: Inputs) -> Phi:
        """Φ*(x), of norm 1."""
        hidden = inputs
        for layer in self._layers:
            hidden = leaky_relu(hidden @ layer.to(inputs), self.slope)
        return normalize(hidden, dim=-1)
