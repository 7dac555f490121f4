"""Positive random features (Performer)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.features.feature_map import FEATURE_MAPS, PointwiseFeatureMap
from iclens.kernels import GaussianKernel, Kernel, SoftmaxKernel


@FEATURE_MAPS.register("positive-random")
@dataclass(frozen=True)
class PositiveRandomFeatures(PointwiseFeatureMap):
    """φ(x) = n_features^(−1/2) exp(−‖z‖²/2) [exp(w_1ᵀz), …, exp(w_nᵀz)] with z = √scale · x and w_j ~ N(0, I).

    An unbiased estimate of the softmax kernel, E φ(x)ᵀφ(y) = exp(scale · xᵀy), whose relative variance is
    (exp(‖z_x + z_y‖²) − 1)/n_features for independent w_j: useful at moderate scales only. For the Gaussian kernel the
    norm is dropped once more: exp(−‖z‖²) in place of exp(−‖z‖²/2).

    The w_j are a function of (seed, d, n_features, orthogonal) alone, drawn in float64 on the CPU and then cast, so
    that queries and keys, dtypes and devices share them.

    Source: Ren & Liu 2024 (n_features is their d_r); Choromanski et al. 2021, "Rethinking Attention with
    Performers", Lemma 1.

    Attributes:
        n_features: number of features.
        orthogonal: draw the w_j in blocks of d that are mutually orthogonal within a block, each with the length of a
            Gaussian vector, so that every w_j is still N(0, I); otherwise independent.
        seed: of the draws. Two maps with one seed are one map; vary it to average over draws.

    Raises:
        UserError: n_features < 1.
    """

    n_features: int = 256
    orthogonal: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_features < 1:
            raise UserError(f"n_features={self.n_features} must be at least 1.")

    def directions(self, d: int) -> Float[Tensor, "n_features {d}"]:
        """Return the vectors w_j for tokens of width d, (n_features, d), float64."""
        # A stream of its own: data drawn after manual_seed(seed) would otherwise hold these very numbers.
        digest = hashlib.sha256(f"positive random features {self.seed}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        shape = (math.ceil(self.n_features / d), d, d) if self.orthogonal else (self.n_features, d)
        gaussian = torch.randn(shape, generator=generator, dtype=torch.float64)
        if not self.orthogonal:
            return gaussian
        basis, triangle = torch.linalg.qr(gaussian)
        # QR fixes the signs of the triangle's diagonal; with them undone the basis is uniform over rotations.
        basis = basis * triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
        lengths = torch.randn(shape, generator=generator, dtype=torch.float64).norm(dim=-1, keepdim=True)
        return (basis * lengths).reshape(-1, d)[: self.n_features]

    def features(  # noqa: D102
        self, x: Float[Tensor, "*batch n d"], kernel: Kernel
    ) -> tuple[Float[Tensor, "*batch n n_features"], Float[Tensor, "*batch n"]]:
        if not isinstance(kernel, SoftmaxKernel | GaussianKernel):
            raise UserError(
                "positive random features exist for the softmax and the Gaussian kernel, "
                f"not for {type(kernel).__name__}."
            )
        z = x * kernel.scale**0.5
        norm = z.square().sum(-1, keepdim=True) * (0.5 if isinstance(kernel, SoftmaxKernel) else 1.0)
        exponents = z @ self.directions(x.shape[-1]).to(z).mT - norm
        # φ does not depend on where it is split, so no gradient need flow through the choice.
        largest = exponents.detach().amax(-1, keepdim=True)
        return (exponents - largest).exp() * self.n_features**-0.5, largest.squeeze(-1)
