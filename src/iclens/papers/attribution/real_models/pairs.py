"""Subsets foretold with pairs: a quadratic model of the margin, fitted to its gradients at random weights."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.attribution.influence_mirrored import HIGH, LOW
from iclens.attribution.training_weights import influences_at
from iclens.lens.lens import Lens

N_PAIRS = 3
RIDGE = 0.1
"""The penalty on the pairs' effects, in units of the mean spread of the weights."""


def quadratic(
    weights: Float[Tensor, "n_vectors n"], gradients: Float[Tensor, "n_vectors n"], ridge: float = RIDGE
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n n"]]:
    """Fit ∇M(w) ≈ b + A (w − w̄) with A symmetric, by least squares with a penalty on ‖A‖².

    With S = Σ d dᵀ over the deviations d = w − w̄, and R = Σ (d gᵀ + g dᵀ), the symmetric A solves
    S A + A S + 2λ A = R: elementwise in the eigenbasis of S.

    Args:
        weights: training weights w.
        gradients: ∂M/∂w at each.
        ridge: λ over the mean eigenvalue of S.

    Returns:
        b, the gradient at w̄, and A, the effects of pairs.
    """
    d = weights - weights.mean(0)
    b = gradients.mean(0)
    rest = d.T @ (gradients - b)
    values, vectors = torch.linalg.eigh(d.T @ d)
    within = vectors.T @ (rest + rest.T) @ vectors
    within = within / (values[:, None] + values + 2 * ridge * values.mean())
    return b, vectors @ within @ vectors.T


def foretold(
    lens: Lens, subsets: Float[Tensor, "n_subsets n"], generator: torch.Generator
) -> Float[Tensor, " n_subsets"]:
    """M(s) up to a constant for subsets s, by the quadratic model: two passes for each of six weight vectors."""
    n = subsets.shape[1]
    first = torch.stack([torch.randperm(n, generator=generator) < n // 2 for _ in range(N_PAIRS)])
    weights = torch.where(torch.cat([first, ~first]), HIGH, LOW).double()
    b, a = quadratic(weights, influences_at(lens, weights))
    d = subsets.double() - weights.mean(0)
    return d @ b + 0.5 * ((d @ a) * d).sum(1)
