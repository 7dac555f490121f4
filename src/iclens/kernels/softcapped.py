"""The kernel of softmax attention whose scores are capped by a tanh."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from iclens.kernels.kernel import KERNELS, Kernel, SignedLog


@KERNELS.register("softcapped")
@dataclass(frozen=True)
class SoftcappedKernel(Kernel):
    """k(x, y) = exp(cap · tanh(scale · xᵀy / cap)), as in Gemma 2.

    Positive and symmetric, so the dual model is exact in kernel form; it is not positive semi-definite in general
    (tanh has negative Taylor coefficients), so it has no feature map and `weight_norm` may have no real value.

    Attributes:
        scale: factor of the scores, positive.
        cap: largest absolute score, positive.
    """

    scale: float
    cap: float
    normalizes = True

    def log(self, x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch_y m d"]) -> SignedLog:  # noqa: D102
        return SignedLog((x @ y.mT * (self.scale / self.cap)).tanh() * self.cap)

    def log_diagonal(self, x: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n"]:  # noqa: D102
        return (x.square().sum(-1) * (self.scale / self.cap)).tanh() * self.cap
