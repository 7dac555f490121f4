"""Functions that are linear in known features: y = wᵀ φ(x) + σ z, the family of most regression tasks."""

from __future__ import annotations

import abc
from collections.abc import Mapping

import torch
from torch import Tensor

from iclens.tasks.draws import normal
from iclens.tasks.options import require_counts, require_positive
from iclens.tasks.regression import Regression
from iclens.tasks.shapes import Inputs, Labels, Phi
from iclens.tasks.task import Optimal


class LinearInFeatures(Regression, abc.ABC):
    """y = wᵀ φ(x) + σ z with w ~ N(0, τ² I) and z ~ N(0, I); a subclass says what φ is.

    Given the inputs this is Bayesian linear regression, whatever the law of the inputs: the Bayes predictor is ridge
    regression on φ with strength σ²/τ², and without noise least squares of minimum norm on φ. `function` holds
    `weight`, (*batch, n_features, d_y).

    Args:
        d: width of the inputs.
        n_features: width of φ(x).
        d_y: width of the labels; their weights are independent.
        weight_std: τ, positive.
        noise_std: σ, 0 for no noise.
        inputs: `normal` for x ~ N(0, s² I), `uniform` for independent coordinates from U(−s, s).
        input_scale: s, positive.

    Raises:
        UserError: an option out of its range.
    """

    source = "the posterior mean of Bayesian linear regression"
    """Where the optimum is known from."""

    def __init__(
        self,
        *,
        d: int,
        n_features: int,
        d_y: int = 1,
        weight_std: float = 1.0,
        noise_std: float = 0.0,
        inputs: str = "normal",
        input_scale: float = 1.0,
    ) -> None:
        super().__init__(d=d, d_y=d_y, noise_std=noise_std, inputs=inputs, input_scale=input_scale)
        require_counts(n_features=n_features)
        require_positive(weight_std=weight_std)
        self.n_features, self.weight_std = n_features, weight_std

    @property
    def plain(self) -> bool:
        """Whether φ is the identity, so that estimators need no flag."""
        return type(self).features is LinearInFeatures.features

    def features(self, inputs: Inputs) -> Phi:
        """φ(x); here x itself."""
        return inputs

    def sample_function(self, generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:
        """`weight`: (*batch, n_features, d_y)."""
        weight = normal(generator, *batch, self.n_features, self.d_y)
        return {"weight": weight if self.weight_std == 1 else weight.mul_(self.weight_std)}

    def values(self, inputs: Inputs, function: Mapping[str, Tensor]) -> Labels:  # noqa: D102
        return self.features(inputs) @ function["weight"]

    def optimal(self) -> Optimal:
        """Ridge with strength σ²/τ² on φ; least squares of minimum norm without noise."""
        options = {} if self.plain else {"features": self.features}
        if self.noise_std == 0:
            return Optimal("least-squares", options, exact=True, source=self.source)
        strength = (self.noise_std / self.weight_std) ** 2
        return Optimal("ridge", {"alpha": strength, **options}, exact=True, source=self.source)
