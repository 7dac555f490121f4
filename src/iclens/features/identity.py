"""The feature map of linear attention."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.features.feature_map import FEATURE_MAPS, PointwiseFeatureMap
from iclens.kernels import Kernel, LinearKernel


@FEATURE_MAPS.register("identity")
@dataclass(frozen=True)
class Identity(PointwiseFeatureMap):
    """φ(x) = √scale · x, exact for the linear kernel scale · xᵀy; n_features = d.

    The dual model of linear attention is then linear regression's f(x) = W x, and D = 1.
    """

    def features(  # noqa: D102
        self, x: Float[Tensor, "*batch n d"], kernel: Kernel
    ) -> tuple[Float[Tensor, "*batch n n_features"], Float[Tensor, "*batch n"]]:
        if not isinstance(kernel, LinearKernel):
            raise UserError(f"identity features belong to the linear kernel, not to {type(kernel).__name__}.")
        return x * kernel.scale**0.5, x.new_zeros(x.shape[:-1])
