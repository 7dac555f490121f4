"""The kernel of linear attention."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from iclens.kernels.kernel import KERNELS, Kernel, SignedLog


@KERNELS.register("linear")
@dataclass(frozen=True)
class LinearKernel(Kernel):
    """k(x, y) = scale · xᵀy, with φ(x) = √scale · x and D = 1: linear attention.

    Attributes:
        scale: factor of the scores, positive.
    """

    scale: float = 1.0
    normalizes = False

    def log(self, x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch_y m d"]) -> SignedLog:  # noqa: D102
        values = x @ y.mT * self.scale
        return SignedLog(values.abs().log(), values.sign())

    def log_diagonal(self, x: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n"]:  # noqa: D102
        return (self.scale * x.square().sum(-1)).log()

    def coefficients(  # noqa: D102
        self,
        q: Float[Tensor, "*batch n_query d"],
        k: Float[Tensor, "*batch_k n_key d"],
        mask: Bool[Tensor, "*batch_m #n_query n_key"] | None,
        weights: Float[Tensor, "*batch_w #n_query n_key"] | None = None,
    ) -> tuple[Float[Tensor, "*out n_query n_key"], Float[Tensor, "*out n_query"]]:
        values = q @ k.mT * self.scale
        if weights is not None:
            values = values * weights
        if mask is not None:
            values = values.masked_fill(~mask, 0)
        return values, values.new_zeros(values.shape[:-1])
