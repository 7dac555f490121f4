"""The best map of low rank between two sets of vectors, with a ridge, in closed form (reduced-rank regression)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, eq=False)
class LowRank:
    """A linear map of low rank, x ↦ B A x, which an adapter adds to a matrix.

    Attributes:
        a: A, from the input to the middle.
        b: B, from the middle to the output.
    """

    a: Float[Tensor, "rank d_in"]
    b: Float[Tensor, "d_out rank"]

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Map vectors, in their own type."""
        return x @ self.a.T.to(x) @ self.b.T.to(x)

    @property
    def matrix(self) -> Float[Tensor, "d_out d_in"]:
        """Multiply B A out, as a matrix of full size."""
        return self.b @ self.a


@dataclass(frozen=True, eq=False)
class BestMaps:
    """The maps Δ of every rank that minimise Σ_t w_t |Δ x_t − y_t|² + λ |Δ|², by their singular values.

    With V s Wᵀ the singular value decomposition of √w x, the unconstrained minimum is Δ = Yᵀ V s/(s² + λ) Wᵀ. Its loss
    is |Y|² − |G|² with G = s/√(s² + λ) Vᵀ Y, and a map of rank r can reach no more of G than its r largest singular
    values: the best one is U Uᵀ Δ, where U are the r first right singular vectors of G. The metric is that of the
    inputs that occur (and of the ridge), not that of Δ's own entries.

    Source: reduced-rank regression, Izenman 1975; Δ without a rank: 2510.08734.

    Attributes:
        inputs: W, the directions of the inputs that occur.
        along: Vᵀ Y s/(s² + λ), what Δ gives along each of them.
        directions: U, all of them, the most important first.
        gains: by how much each one lowers the loss, descending.
        nothing: the loss of Δ = 0, Σ_t w_t |y_t|².
    """

    inputs: Float[Tensor, "n_inputs d_in"]
    along: Float[Tensor, "n_inputs d_out"]
    directions: Float[Tensor, "d_out k"]
    gains: Float[Tensor, " k"]
    nothing: float

    @property
    def full(self) -> Float[Tensor, "d_out d_in"]:
        """Δ without a limit of its rank."""
        return self.along.T @ self.inputs

    def of_rank(self, rank: int) -> LowRank:
        """The best map of at most this rank; where the data have a lower one, the rest is zero."""
        u = self.directions[:, :rank]
        lacking = rank - u.shape[1]
        return LowRank(pad((u.T @ self.along.T) @ self.inputs, (0, 0, 0, lacking)), pad(u, (0, lacking)))

    def loss(self, rank: int) -> float:
        """The minimum over maps of at most this rank."""
        return self.nothing - float(self.gains[:rank].sum())


_DROWNS = 1e-7
"""Ridge over the inputs' sum of squares from which on the rounding of a Gram matrix does not show."""


def best_maps(
    x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], weights: Float[Tensor, " n"], ridge: float
) -> BestMaps:
    """Regress y on x in float64, for every rank at once.

    Args:
        x: inputs.
        y: what the map is to give.
        weights: how often each pair counts, positive.
        ridge: λ in inputs of mean size, λ = ridge · Σ w|x|²/Σ w; 0 gives the solution of least norm.
    """
    root = weights.double().sqrt()[:, None]
    x, y = x.double() * root, y.double() * root
    penalty = ridge * float(x.square().sum() / weights.double().sum())
    v, s, w = _decomposed(x, by_gram=penalty > _DROWNS * float(x.square().sum()))
    seen = v.T @ y
    along = (s / (s.square() + penalty))[:, None] * seen
    reached = (s / (s.square() + penalty).sqrt())[:, None] * seen
    if reached.shape[0] < reached.shape[1]:
        squares, left = torch.linalg.eigh(reached @ reached.T)
        positive = squares > 0
        squares, left = squares[positive], left[:, positive]
        directions = (reached.T @ left) / squares.sqrt()
    else:
        squares, directions = torch.linalg.eigh(reached.T @ reached)
    return BestMaps(w, along, directions.flip(1), squares.flip(0).clamp_min(0), float(y.square().sum()))


def _decomposed(x: Float[Tensor, "n d"], by_gram: bool) -> tuple[Tensor, Tensor, Tensor]:
    """V, s, W of x = V s Wᵀ, W by rows, without what is rounding; by a Gram matrix it takes a third of the time."""
    eps = torch.finfo(x.dtype).eps * max(x.shape)
    if not by_gram:
        v, s, w = torch.linalg.svd(x, full_matrices=False)
        real = s > s.max() * eps
        return v[:, real], s[real], w[real]
    wide = x.shape[0] < x.shape[1]
    squares, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    real = squares > squares.max() * eps
    s, vectors = squares[real].sqrt(), vectors[:, real]
    return (vectors, s, (vectors.T @ x) / s[:, None]) if wide else ((x @ vectors) / s, s, vectors.T)
