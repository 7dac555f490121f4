"""The Gaussian kernel."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from iclens.kernels.kernel import KERNELS, Kernel, SignedLog


@KERNELS.register("gaussian")
@dataclass(frozen=True)
class GaussianKernel(Kernel):
    """k(x, y) = exp(−scale · ‖x − y‖² / 2): bandwidth σ = scale^(−1/2).

    Attention with this kernel is Nadaraya–Watson regression of the values on the keys.

    Attributes:
        scale: 1/σ², positive.
    """

    scale: float
    normalizes = True

    def log(self, x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch_y m d"]) -> SignedLog:  # noqa: D102
        # Distances do not change under a shift; centring keeps ‖x‖² − 2xᵀy + ‖y‖² from cancelling.
        centre = y.mean(-2, keepdim=True).detach()
        x, y = x - centre, y - centre
        squared = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :] - 2 * x @ y.mT
        return SignedLog(squared.clamp_min(0) * (-self.scale / 2))

    def log_diagonal(self, x: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n"]:  # noqa: D102
        return x.new_zeros(x.shape[:-1])
