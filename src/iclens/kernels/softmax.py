"""The kernel of softmax attention."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from iclens.kernels.kernel import KERNELS, Kernel, SignedLog


@KERNELS.register("softmax")
@dataclass(frozen=True)
class SoftmaxKernel(Kernel):
    """k(x, y) = exp(scale · xᵀy), the exponential kernel of softmax attention (Ren & Liu 2024).

    It factors as exp(s‖x‖²/2) · exp(−s‖x − y‖²/2) · exp(s‖y‖²/2): a Gaussian kernel of bandwidth s^(−1/2) between two
    norms. The paper absorbs s = d^(−1/2) by scaling both arguments by d^(−1/4).

    Attributes:
        scale: s, positive.
    """

    scale: float
    normalizes = True

    def log(self, x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch_y m d"]) -> SignedLog:  # noqa: D102
        return SignedLog(x @ y.mT * self.scale)

    def log_diagonal(self, x: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n"]:  # noqa: D102
        return self.scale * x.square().sum(-1)
