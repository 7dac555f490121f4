"""What every feature map gives."""

from __future__ import annotations

import abc
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from iclens.kernels import Kernel
from iclens.registry import Registry


class FeaturePair(NamedTuple):
    """Computed features: k(k_i, q_t) = exp(log_scale_q[t] + log_scale_k[i]) · phi_q[t]ᵀphi_k[t, i].

    The exponentials of the norms stay in log space, so that the features themselves neither overflow nor
    underflow where the kernel does.

    Attributes:
        phi_q: features of the queries, (..., n_query, n_features).
        phi_k: features of the keys, (..., n_query or 1, n_key, n_features); the axis of the queries is 1 when one
            basis serves all of them.
        log_scale_q: (..., n_query).
        log_scale_k: (..., n_key).
        inner_error: absolute error of phi_qᵀphi_k that does not come from adding up its terms, (..., 1, 1): that of an
            eigendecomposition behind the features. None when there is no such thing.
    """

    phi_q: Float[Tensor, "*batch n_query n_features"]
    phi_k: Float[Tensor, "*batch_k #n_query n_key n_features"]
    log_scale_q: Float[Tensor, "*batch n_query"]
    log_scale_k: Float[Tensor, "*batch_k n_key"]
    inner_error: Float[Tensor, "*batch_e 1 1"] | None = None


class FeatureMap(abc.ABC):
    """A feature map φ of a kernel, evaluated on the given queries and keys."""

    @abc.abstractmethod
    def pair(
        self, q: Float[Tensor, "*batch n_query d"], k: Float[Tensor, "*batch_k n_key d"], kernel: Kernel
    ) -> FeaturePair:
        """Features of queries and keys under `kernel`.

        Raises:
            UserError: this map does not exist for that kernel.
        """


class PointwiseFeatureMap(FeatureMap):
    """A feature map that is a function of one token alone."""

    @abc.abstractmethod
    def features(
        self, x: Float[Tensor, "*batch n d"], kernel: Kernel
    ) -> tuple[Float[Tensor, "*batch n n_features"], Float[Tensor, "*batch n"]]:
        """φ(x) as (phi, log_scale): φ(x) = exp(log_scale) · phi."""

    def pair(  # noqa: D102
        self, q: Float[Tensor, "*batch n_query d"], k: Float[Tensor, "*batch_k n_key d"], kernel: Kernel
    ) -> FeaturePair:
        phi_q, log_scale_q = self.features(q, kernel)
        phi_k, log_scale_k = self.features(k, kernel)
        return FeaturePair(phi_q, phi_k.unsqueeze(-3), log_scale_q, log_scale_k)


FEATURE_MAPS: Registry[type[FeatureMap]] = Registry("feature map", "iclens.feature_maps")
