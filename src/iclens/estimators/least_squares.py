"""Least squares, of minimum norm while the points do not determine the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iclens.estimators.conditional_means import lower_factor, recursive_least_squares
from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.points import Features, checked_points, mapped
from iclens.estimators.prefix_loop import by_prefix
from iclens.tasks.shapes import Inputs, Labels

_INDEPENDENT = {torch.float32: 1e-4, torch.float64: 1e-6}
"""Least distance of a point from the span of the points before it, in units of its length, for the fast way."""


@ESTIMATORS.register("least-squares")
@dataclass(frozen=True, eq=False)
class LeastSquares(Estimator):
    """ŷ = wᵀφ(x), where w is the vector of smallest norm among the minimisers of Σ_i (y_i − wᵀφ(x_i))².

    All prefixes: with X = L Qᵀ the first d points give conditional means under covariance X Xᵀ (ridge regression as
    α → 0), without squaring the condition of X; from then on `recursive_least_squares` starts with R = L. O(n d²) for a
    prompt of n points. Relative error: rounding times the condition of the first d points.

    Points that depend on those before them, to rounding, break the recursion. Prompts that have such points are rotated
    into their own span if it is smaller than d (a subspace, a column of zeros), or else answered prefix by prefix.

    Attributes:
        features: φ; None for the inputs as they are.
    """

    features: Features | None = None

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:  # noqa: D102
        inputs, labels = checked_points(inputs, labels)
        return _all_prefixes(mapped(self.features, inputs), labels)

    def prefixes_naive(self, inputs: Inputs, labels: Labels) -> Labels:
        """Return the same by the pseudo-inverse, one prefix after another."""
        inputs, labels = checked_points(inputs, labels)
        return by_prefix(_pseudo_inverse, mapped(self.features, inputs), labels)


def _pseudo_inverse(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
    return query @ (torch.linalg.pinv(xs, rtol=_rtol(xs)) @ ys)


def _rtol(x: Tensor) -> float:
    """Singular values below this share of the largest count as zero, as in LAPACK's and scikit-learn's solvers."""
    return max(x.shape[-2:]) * torch.finfo(x.dtype).eps


def _all_prefixes(x: Tensor, y: Tensor) -> Tensor:
    n, d = x.shape[-2:]
    m = min(n - 1, d)
    coordinates = lower_factor(x)
    distances = coordinates.detach().diagonal(dim1=-2, dim2=-1)[..., :m].abs()
    independent = (distances > _INDEPENDENT[x.dtype] * x.detach()[..., :m, :].norm(dim=-1)).all(-1)
    if not independent.all():
        return _some_dependent(x, y, independent)
    basis = coordinates[..., :m, :m]
    z = torch.linalg.solve_triangular(basis, y[..., :m, :], upper=False)
    answers = coordinates[..., :m].tril(-1) @ z
    if n - 1 <= d:
        return answers
    rest = recursive_least_squares(coordinates[..., m:, :], y[..., m:, :], (basis, y[..., :m, :]), upper=False)
    return torch.cat([answers[..., :m, :], rest], -2)


def _some_dependent(x: Tensor, y: Tensor, independent: Tensor) -> Tensor:
    shape, d = y.shape, x.shape[-1]
    x, y, independent = x.reshape(-1, *x.shape[-2:]), y.reshape(-1, *y.shape[-2:]), independent.reshape(-1)
    _, singular, rotations = torch.linalg.svd(x.detach(), full_matrices=False)
    ranks = (singular > _rtol(x) * singular[..., :1]).sum(-1)
    answers = torch.zeros_like(y)
    if independent.any():
        answers[independent] = _all_prefixes(x[independent], y[independent])
    for rank in ranks[~independent].unique().tolist():
        chosen = ~independent & (ranks == rank)
        if rank == d:
            answers[chosen] = by_prefix(_pseudo_inverse, x[chosen], y[chosen])
        elif rank > 0:
            answers[chosen] = _all_prefixes(x[chosen] @ rotations[chosen, :rank].mT, y[chosen])
    return answers.reshape(shape)
