"""Mercer features: finite, and exact on the tokens at hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.features.feature_map import FEATURE_MAPS, FeatureMap, FeaturePair
from iclens.kernels import Kernel, SoftcappedKernel


def _correlation(
    kernel: Kernel, x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch_y m d"]
) -> Float[Tensor, "*out n m"]:
    """k(x, y) / √(k(x, x) k(y, y)), in [−1, 1]; for the softmax kernel this is the Gaussian kernel."""
    if isinstance(kernel, SoftcappedKernel):
        raise UserError(
            "the softcapped kernel is not positive semi-definite: it has no Mercer features. Use the kernel form."
        )
    log_abs, sign = kernel.log(x, y)
    half_x, half_y = kernel.log_diagonal(x) / 2, kernel.log_diagonal(y) / 2
    values = (log_abs - half_x[..., :, None] - half_y[..., None, :]).exp()
    values = values if sign is None else values * sign
    # A zero vector under the linear kernel has log-diagonal −inf; its features are zero.
    return values.nan_to_num(nan=0.0)


def _square_root(gram: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """R with R Rᵀ = gram, for a positive semi-definite matrix that may be singular (repeated tokens)."""
    eigenvalues, eigenvectors = torch.linalg.eigh((gram + gram.mT) / 2)
    return eigenvectors * eigenvalues.clamp_min(0).sqrt().unsqueeze(-2)


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

    Source: Ren & Liu 2024, section 3 (Mercer's theorem); the construction is derived in docs/theory/features.md.
    """

    def pair(  # noqa: D102
        self, q: Float[Tensor, "*batch n_query d"], k: Float[Tensor, "*batch_k n_key d"], kernel: Kernel
    ) -> FeaturePair:
        to_query = _correlation(kernel, q, k).unsqueeze(-1)
        rest = _square_root(_correlation(kernel, k, k).unsqueeze(-3) - to_query @ to_query.mT)
        phi_k = torch.cat([to_query, rest], -1)
        phi_q = torch.zeros_like(phi_k[..., 0, :])
        phi_q[..., 0] = 1
        return FeaturePair(phi_q, phi_k, kernel.log_diagonal(q) / 2, kernel.log_diagonal(k) / 2)


@FEATURE_MAPS.register("mercer-joint")
@dataclass(frozen=True)
class JointMercer(FeatureMap):
    """An empirical Mercer map in one basis for all tokens: the eigenvectors of the Gram matrix of queries and keys.

    φ(z) = Λ^{−1/2} Uᵀ k(Z, z) with Z all tokens at hand, on which it equals the rows of U Λ^{1/2}. One W can then serve
    every query, as online gradient descent needs. Inner products are exact to rounding relative to √(k(x,x)k(y,y)).

    n_features = n_query + n_key. Cost O((n_query + n_key)³).
    """

    def pair(  # noqa: D102
        self, q: Float[Tensor, "*batch n_query d"], k: Float[Tensor, "*batch_k n_key d"], kernel: Kernel
    ) -> FeaturePair:
        leading = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
        tokens = torch.cat([q.expand(*leading, -1, -1), k.expand(*leading, -1, -1)], -2)
        root = _square_root(_correlation(kernel, tokens, tokens))
        n_query = q.shape[-2]
        return FeaturePair(
            root[..., :n_query, :],
            root[..., None, n_query:, :],
            kernel.log_diagonal(q) / 2,
            kernel.log_diagonal(k) / 2,
        )
