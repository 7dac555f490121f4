"""Regression on powers, or on all monomials, of the inputs."""

from __future__ import annotations

import itertools
import math

import torch

from iclens.errors import UserError
from iclens.tasks.linear_in_features import LinearInFeatures
from iclens.tasks.options import require_counts
from iclens.tasks.shapes import Inputs, Phi
from iclens.tasks.task import TASKS

MOST_FEATURES = 20_000
"""More monomials than this are a mistake in the options rather than a task."""


@TASKS.register("polynomial")
class Polynomial(LinearInFeatures):
    """y = wᵀ φ(x) + σ z with φ(x) the number 1 and the powers x_i, x_i², … up to `degree` of every coordinate.

    With `cross_terms` φ(x) holds all C(d + degree, degree) monomials of at most that degree.

    Args:
        d: width of the inputs.
        d_y: width of the labels; their weights are independent.
        degree: the largest power.
        cross_terms: whether products of different coordinates are features too.
        weight_std: τ, positive.
        noise_std: σ, 0 for no noise.
        inputs: `uniform` for independent coordinates from U(−s, s), `normal` for x ~ N(0, s² I).
        input_scale: s, positive.

    Raises:
        UserError: an option out of its range, or more than 20,000 monomials.
    """

    def __init__(
        self,
        *,
        d: int = 5,
        d_y: int = 1,
        degree: int = 3,
        cross_terms: bool = False,
        weight_std: float = 1.0,
        noise_std: float = 0.0,
        inputs: str = "uniform",
        input_scale: float = 1.0,
    ) -> None:
        require_counts(d=d, degree=degree)
        n_features = math.comb(d + degree, degree) if cross_terms else 1 + d * degree
        if n_features > MOST_FEATURES:
            raise UserError(f"d={d} and degree={degree} give {n_features} monomials; {MOST_FEATURES} are the most.")
        super().__init__(
            d=d,
            n_features=n_features,
            d_y=d_y,
            weight_std=weight_std,
            noise_std=noise_std,
            inputs=inputs,
            input_scale=input_scale,
        )
        self.degree, self.cross_terms = degree, cross_terms
        # A monomial of at most this degree is a product of exactly `degree` factors out of 1, x_1, …, x_d.
        self._factors = (
            torch.tensor(list(itertools.combinations_with_replacement(range(d + 1), degree))) if cross_terms else None
        )

    def features(self, inputs: Inputs) -> Phi:
        """φ(x), the number 1 first."""
        one = torch.ones_like(inputs[..., :1])
        if self._factors is not None:
            return torch.cat([one, inputs], -1)[..., self._factors.to(inputs.device)].prod(-1)
        powers = inputs.unsqueeze(-1).expand(*inputs.shape, self.degree).cumprod(-1)
        return torch.cat([one, powers.flatten(-2)], -1)
