"""Pairs: how the influence of one demonstration changes with the weight of another, and subsets predicted with them.

Near weights c the margin is taken as a quadratic function of the training weights w of the demonstrations,

    M(w) ≈ M(c) + b·(w − c) + ½ (w − c)ᵀ H (w − c),

H_ij = ∂²M/∂w_i∂w_j. Where i and j support the answer and H_ij < 0, each matters less when the other is there: they say
the same. Where H_ij > 0 they depend on each other.

One backward pass at a weight vector gives n derivatives, ∇M(w) ≈ b + H (w − c), so a few vectors determine n² pairs
nearly; a Hessian-vector product for each i would take n passes and more. The vectors lie at random in mirrored pairs
around c, so that b is the mean of the gradients, and H is the symmetric matrix with the least

    Σ_k |H (w_k − c) − (g_k − b)|² + λ m |H|²,

whose normal equations, H S + S H + 2 λ m H = G Dᵀ + D Gᵀ with S = D Dᵀ, are solved in the eigenvectors of S. What it
predicts is compared with the model itself, with random halves of the demonstrations cut out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.errors import UserError

N_VECTORS = 8
"""Weight vectors at which the gradient is taken."""

N_CHECKS = 8
"""Random halves of the demonstrations on which the prediction is compared with the model."""

RIDGE = 0.01
"""λ, for weights that range over [0, 1]: chosen on prompts of SmolLM2 by how well subsets are predicted."""

LEAST = 0.1
"""The smallest weight of a vector, over the largest."""

HALF_OF_IT = 0.5
"""Part of a demonstration's effect that another one takes or gives, from which the two count as a pair."""

_CLEAR = 2.0
"""Standard errors of H_ij from which a pair is distinguished from noise."""

_SMALL = 0.1
"""Effect, over the largest one, below which a demonstration is in no pair."""


@dataclass(frozen=True)
class Pairs:
    """A quadratic model of one prompt's margin in the training weights of its demonstrations.

    Attributes:
        influence: b, the mean derivative, nats per unit of weight; all weights count here by that unit of `Influence`.
        matrix: H, symmetric; nats per unit of either weight. The diagonal says how an effect bends by itself.
        noise: standard error of each entry of H, from leaving out pairs of mirrored vectors.
        constant: M(c).
        weights: the vectors; their mean is c, and the largest weight twice their mean less the smallest.
        kept: random halves of the demonstrations, and in `margins` what the model says when it sees no others.
    """

    influence: Float[Tensor, " n"]
    matrix: Float[Tensor, "n n"]
    noise: Float[Tensor, "n n"]
    constant: float
    weights: Float[Tensor, "m n"]
    kept: Bool[Tensor, "n_checks n"]
    margins: Float[Tensor, " n_checks"]

    def predict(self, keep: Bool[Tensor, "*any n"]) -> Float[Tensor, "*any"]:
        """Return the margin when the model sees these demonstrations only, each with a weight of one unit."""
        off = keep.double() - self.weights.mean(0)
        return self.constant + off @ self.influence + (off @ self.matrix * off).sum(-1) / 2

    @property
    def error(self) -> float:
        """Root mean square error of `predict` on `kept`, in nats; an interval is about twice as wide."""
        return float((self.predict(self.kept) - self.margins).square().mean().sqrt())

    @property
    def spread(self) -> float:
        """Standard deviation of the margin over `kept`: the error of a prediction that knows nothing but the mean."""
        return float(self.margins.std(correction=0))

    @property
    def changes(self) -> Float[Tensor, "n n"]:
        """By what part of the smaller effect of two demonstrations the other's presence raises it.

        H_ij s / min(|b_i|, |b_j|) for two effects of one sign s, over the range of the weights; 0 on the diagonal, for
        effects of two signs, for small ones and where H_ij is not distinguished from noise.
        """
        size, scale = self.influence.abs(), float(self.weights.max())
        sign = self.influence.sign()
        told = (self.matrix.abs() >= _CLEAR * self.noise) & (sign[:, None] == sign)
        large = size >= _SMALL * size.max()
        told &= large[:, None] & large & ~torch.eye(len(size), dtype=torch.bool)
        smaller = torch.minimum(size[:, None], size).clamp_min(torch.finfo(torch.float64).tiny)
        return torch.where(told, self.matrix * sign * scale / smaller, 0.0)

    @property
    def redundant(self) -> tuple[tuple[int, ...], ...]:
        """Groups of demonstrations that say the same: another one takes at least half of each one's effect."""
        return _groups(self.changes <= -HALF_OF_IT)

    @property
    def dependent(self) -> tuple[tuple[int, int], ...]:
        """Pairs that depend on each other: the other one adds at least half of the smaller effect."""
        chosen = (self.changes >= HALF_OF_IT).triu(1).nonzero()
        return tuple((int(i), int(j)) for i, j in chosen)


def weight_vectors(
    batch: int, n: int, generator: torch.Generator, n_vectors: int = N_VECTORS
) -> Float[Tensor, "m batch n"]:
    """Draw weight vectors in mirrored pairs, uniformly between `LEAST` and 1.

    Raises:
        UserError: fewer than four, or an odd number.
    """
    if n_vectors < 4 or n_vectors % 2:
        raise UserError(f"n_vectors is {n_vectors}: they come in mirrored pairs; take 4, 6, 8 or more.")
    drawn = LEAST + (1 - LEAST) * torch.rand(n_vectors // 2, batch, n, generator=generator, dtype=torch.float64)
    return torch.stack([drawn, 1 + LEAST - drawn], 1).flatten(0, 1)


def fit(
    weights: Float[Tensor, "m n"],
    gradients: Float[Tensor, "m n"],
    margins: Float[Tensor, " m"],
    kept: Bool[Tensor, "n_checks n"],
    kept_margins: Float[Tensor, " n_checks"],
) -> Pairs:
    """Fit the quadratic model to gradients and margins at mirrored weight vectors, neighbours being mirror images."""
    b, matrix = _quadratic(weights, gradients)
    mirrored = weights.shape[0] // 2
    without = []
    for pair in range(mirrored):
        others = torch.arange(len(weights)) // 2 != pair
        without.append(_quadratic(weights[others], gradients[others])[1])
    jackknife = torch.stack(without)
    noise = ((mirrored - 1) / mirrored * (jackknife - jackknife.mean(0)).square().sum(0)).sqrt()
    off = weights - weights.mean(0)
    constant = float((margins - off @ b - (off @ matrix * off).sum(-1) / 2).mean())
    return Pairs(b, matrix, noise, constant, weights, kept, kept_margins)


def _quadratic(weights: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """b and H of the margin in the neighbourhood of the mean of the weights."""
    b = gradients.mean(0)
    off, left = (weights - weights.mean(0)).T, (gradients - b).T
    values, vectors = torch.linalg.eigh(off @ off.T)
    right = vectors.T @ (left @ off.T + off @ left.T) @ vectors
    # The ridge is relative to the range of the weights.
    ridge = RIDGE * weights.shape[0] * float(weights.max()) ** 2
    return b, vectors @ (right / (values[:, None] + values + 2 * ridge)) @ vectors.T


def _groups(linked: Bool[Tensor, "n n"]) -> tuple[tuple[int, ...], ...]:
    """Return the connected components of more than one member, largest first."""
    left, found = set(range(len(linked))), []
    while left:
        group, edge = set(), {left.pop()}
        while edge:
            group |= edge
            left -= edge
            edge = {j for i in edge for j in linked[i].nonzero().flatten().tolist()} & left
        if len(group) > 1:
            found.append(tuple(sorted(group)))
    return tuple(sorted(found, key=lambda one: (-len(one), one)))
