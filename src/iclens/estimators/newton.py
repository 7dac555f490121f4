"""Least squares by Newton's iteration for the inverse of the covariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.points import Features, checked_points, mapped
from iclens.estimators.prefix_loop import by_prefix
from iclens.tasks.options import require_at_least_zero
from iclens.tasks.shapes import Inputs, Labels


@ESTIMATORS.register("newton")
@dataclass(frozen=True, eq=False)
class Newton(Estimator):
    """ŷ = bᵀ M_T φ(x) with M_{t+1} = 2 M_t − M_t S M_t, M_0 = ε S, where S = Σ_i φ(x_i) φ(x_i)ᵀ and b = Σ_i y_i φ(x_i).

    M_t tends to the pseudo-inverse of S, and ŷ to least squares of minimum norm: an eigenvalue λ of S is inverted up to
    the factor 1 − (1 − ελ²)^(2^t). ε = scale/‖S‖_F², which is at most scale/λ_max² and so converges for scale < 2. One
    prefix after another, O(T n d³).

    Source: Schulz's iteration.

    Attributes:
        n_steps: T, not negative.
        scale: size of the start, in (0, 2).
        features: φ; None for the inputs as they are.

    Raises:
        UserError: an option out of its range.
    """

    n_steps: int = 10
    scale: float = 1.0
    features: Features | None = None

    def __post_init__(self) -> None:
        require_at_least_zero(n_steps=self.n_steps)
        if not 0 < self.scale < 2:
            raise UserError(f"scale={self.scale} must lie between 0 and 2, both excluded.")

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:  # noqa: D102
        inputs, labels = checked_points(inputs, labels)

        def answer(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
            return query @ self.inverse(xs.mT @ xs) @ (xs.mT @ ys)

        return by_prefix(answer, _nested(mapped(self.features, inputs)), labels)

    def inverse(self, covariance: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch d d"]:
        """M_T for a covariance S."""
        size = covariance.square().sum((-2, -1), keepdim=True)
        inverse = covariance * (self.scale / torch.where(size > 0, size, 1.0))
        for _ in range(self.n_steps):
            inverse = 2 * inverse - inverse @ covariance @ inverse
        return inverse


def _nested(x: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n d"]:
    """Return the points in rotated coordinates, of which the first i points have only the first i.

    Rounding in directions that a prefix does not have is doubled by every step; here it is exactly zero.
    """
    rotated = x @ torch.linalg.qr(x.detach().mT, mode="complete").Q
    # The values of the triangle, the gradients of the whole.
    return rotated + (rotated.tril() - rotated).detach()
