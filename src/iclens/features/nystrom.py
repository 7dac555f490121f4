"""Nyström features: the kernel seen from a few landmark tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.features.correlation import correlation
from iclens.features.feature_map import FEATURE_MAPS, FeatureMap, FeaturePair
from iclens.kernels import Kernel


@FEATURE_MAPS.register("nystrom")
@dataclass(frozen=True, eq=False)
class Nystrom(FeatureMap):
    """φ(x) = C_ZZ^{−1/2} c(Z, x) with landmarks Z and c the kernel's correlation: φ(x)ᵀφ(y) = c(x, Z) C_ZZ⁺ c(Z, y).

    It is the kernel of the features' projections on the span of φ(z_1), …, φ(z_m). So it is exact for a pair as soon
    as one of the two is a landmark; with every key a landmark, attention is exact for every query. It need not be
    positive: the explicit dual refuses a normaliser that is not.

    For the softmax kernel c is the Gaussian kernel with entries in [0, 1], and the norms' exponentials go to the
    log-scales. The inverse square root is a pseudo-inverse: eigenvalues of C_ZZ at most `tolerance` × the largest count
    as zero, which repeated landmarks need. Relative to √(k(x,x)k(y,y)), inner products of two landmarks are then exact
    to tolerance · n_landmarks, and those of a landmark and another token to about √tolerance (in float64 at most 1e-12
    and 1e-8, measured with up to 200 landmarks).

    n_features = number of landmarks. Cost O(n_landmarks³ + n · n_landmarks²).

    Source: Williams & Seeger 2001; docs/theory/features.md.

    Attributes:
        n_landmarks: how many keys to choose at random, without repetition; all of them when there are no more. The same
            positions for all leading axes.
        landmarks: chosen landmarks, (..., n, d), in place of random keys.
        seed: of the choice.
        tolerance: relative threshold of the eigenvalues; n_landmarks × eps of the dtype when None.

    Raises:
        UserError: n_landmarks < 1, or landmarks of another width than the keys.
    """

    n_landmarks: int = 64
    landmarks: Float[Tensor, "*batch n_given d"] | None = None
    seed: int = 0
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.n_landmarks < 1:
            raise UserError(f"n_landmarks={self.n_landmarks} must be at least 1.")

    def choose(self, k: Float[Tensor, "*batch_k n_key d"]) -> Float[Tensor, "*batch_z n_landmark d"]:
        """Return the landmarks used for these keys."""
        if self.landmarks is not None:
            if self.landmarks.ndim < 2 or self.landmarks.shape[-1] != k.shape[-1]:
                raise UserError(
                    f"landmarks has shape {tuple(self.landmarks.shape)}, but the keys have width {k.shape[-1]}: "
                    f"it must be (..., n, {k.shape[-1]})."
                )
            return self.landmarks.to(k)
        order = torch.randperm(k.shape[-2], generator=torch.Generator().manual_seed(self.seed))
        return k[..., order[: self.n_landmarks].sort().values.to(k.device), :]

    def pair(  # noqa: D102
        self, q: Float[Tensor, "*batch n_query d"], k: Float[Tensor, "*batch_k n_key d"], kernel: Kernel
    ) -> FeaturePair:
        landmarks = self.choose(k)
        among = correlation(kernel, landmarks, landmarks)
        eigenvalues, eigenvectors = torch.linalg.eigh((among + among.mT) / 2)
        tolerance = torch.finfo(k.dtype).eps * landmarks.shape[-2] if self.tolerance is None else self.tolerance
        kept = eigenvalues > tolerance * eigenvalues[..., -1:]
        inverse_roots = torch.where(kept, eigenvalues, 1.0).rsqrt() * kept
        whitening = eigenvectors * inverse_roots.unsqueeze(-2)
        return FeaturePair(
            correlation(kernel, q, landmarks) @ whitening,
            (correlation(kernel, k, landmarks) @ whitening).unsqueeze(-3),
            kernel.log_diagonal(q) / 2,
            kernel.log_diagonal(k) / 2,
        )
