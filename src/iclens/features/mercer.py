"""Mercer features: finite, and exact on the given tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.features.correlation import correlation, square_root
from iclens.features.feature_map import FEATURE_MAPS, FeatureMap, FeaturePair
from iclens.kernels import Kernel


@FEATURE_MAPS.register("mercer")
@dataclass(frozen=True)
class Mercer(FeatureMap):
    """An empirical Mercer map anchored at each query: φ(q) = e₁, so that φ(k_i)ᵀφ(q) keeps its relative precision.

    With G the kernel's correlation matrix over {q} ∪ keys (for the softmax kernel a Gaussian Gram matrix, entries in
    [0, 1]), the first coordinate of φ(k_i) is G(k_i, q) itself and the others factor the Schur complement
    G_KK − G_Kq G_qK. Any other Mercer basis differs from it by a rotation, under which the dual model does not change;
    but in a basis shared by all queries φ(k)ᵀφ(q) is exact only to rounding *relative to one*, while the true value may
    be e^{−60}. The dual's W and D carry the axis of the queries anyway, and so does this basis.

    n_features = n_key + 1. Cost O(n_query · n_key³).

    Source: Ren & Liu 2024 (Mercer's theorem); the construction is derived in docs/theory/features.md.
    """

    def pair(  # noqa: D102
        self, q: Float[Tensor, "*batch n_query d"], k: Float[Tensor, "*batch_k n_key d"], kernel: Kernel
    ) -> FeaturePair:
        to_query = correlation(kernel, q, k).unsqueeze(-1)
        rest = square_root(correlation(kernel, k, k).unsqueeze(-3) - to_query @ to_query.mT)
        phi_k = torch.cat([to_query, rest], -1)
        phi_q = torch.zeros_like(phi_k[..., 0, :])
        phi_q[..., 0] = 1
        return FeaturePair(phi_q, phi_k, kernel.log_diagonal(q) / 2, kernel.log_diagonal(k) / 2)


@FEATURE_MAPS.register("mercer-joint")
@dataclass(frozen=True)
class JointMercer(FeatureMap):
    """An empirical Mercer map in one basis for all tokens: the eigenvectors of the Gram matrix of queries and keys.

    φ(z) = Λ^{−1/2} Uᵀ k(Z, z) with Z all given tokens, on which it equals the rows of U Λ^{1/2}. One W can then serve
    every query, as online gradient descent needs. Inner products are exact to rounding relative to √(k(x,x)k(y,y)),
    which is much coarser than relative to k(x, y) where that is small: see `ExplicitDual.precision`.

    n_features = n_query + n_key. Cost O((n_query + n_key)³).
    """

    def pair(  # noqa: D102
        self, q: Float[Tensor, "*batch n_query d"], k: Float[Tensor, "*batch_k n_key d"], kernel: Kernel
    ) -> FeaturePair:
        leading = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
        tokens = torch.cat([q.expand(*leading, -1, -1), k.expand(*leading, -1, -1)], -2)
        root = square_root(correlation(kernel, tokens, tokens))
        n_query = q.shape[-2]
        return FeaturePair(
            root[..., :n_query, :],
            root[..., None, n_query:, :],
            kernel.log_diagonal(q) / 2,
            kernel.log_diagonal(k) / 2,
            # An eigendecomposition is exact relative to the largest eigenvalue; measured factor 0.3 to 5.
            16 * torch.finfo(k.dtype).eps * root.square().sum(-2).amax(-1)[..., None, None],
        )
