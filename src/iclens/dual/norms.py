"""LayerNorm and RMSNorm, plain and held."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.dual.held import HeldMap
from iclens.errors import UserError


@dataclass(frozen=True, eq=False)
class Norm:
    """A token-wise normalisation with gain and bias.

        LayerNorm(x) = (x − mean x) / √(var x + eps) · gain + bias,
        RMSNorm(x)   = x / √(mean x² + eps) · gain + bias.

    Build one with `Norm.layer` or `Norm.rms`.

    Attributes:
        gain: what multiplies each feature, (d,); None for 1.
        bias: what is added, (d,); None for 0.
        eps: added under the square root, not negative.
        centred: True for LayerNorm, False for RMSNorm.
    """

    gain: Float[Tensor, " d"] | None
    bias: Float[Tensor, " d"] | None
    eps: float
    centred: bool

    def __post_init__(self) -> None:
        if not self.eps >= 0:
            raise UserError(f"a norm's eps={self.eps} must not be negative.")

    @staticmethod
    def layer(gain: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Norm:
        """LayerNorm with these parameters."""
        return Norm(gain, bias, eps, centred=True)

    @staticmethod
    def rms(
        weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-6, *, plus_one: bool = False
    ) -> Norm:
        """RMSNorm with these parameters.

        Args:
            weight: the stored weight, (d,).
            bias: added at the end, (d,).
            eps: added to the mean square.
            plus_one: the gain is 1 + weight, as in the Gemma family.
        """
        return Norm(1 + weight if plus_one and weight is not None else weight, bias, eps, centred=False)

    def __call__(self, x: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n d"]:
        """The plain norm."""
        if self.centred:
            return torch.nn.functional.layer_norm(x, x.shape[-1:], self.gain, self.bias, self.eps)
        normed = torch.nn.functional.rms_norm(x, x.shape[-1:], self.gain, self.eps)
        return normed if self.bias is None else normed + self.bias

    def inverse_scale(self, x: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n"]:
        """1/√(var x + eps) of a LayerNorm, 1/√(mean x² + eps) of an RMSNorm."""
        centre = x - x.mean(-1, keepdim=True) if self.centred else x
        return (centre.square().mean(-1) + self.eps).rsqrt()

    def held(self, x: Float[Tensor, "*batch n d"]) -> HeldMap:
        """Return the affine map that equals this norm at `x`, its scale held at its value there.

        z ↦ (z − mean z) · inverse_scale(x) · gain + bias (without the mean for an RMSNorm). The mean is linear in z and
        stays a function of z; only the scale is held.
        """
        factor = self.inverse_scale(x)[..., None, None]
        gain = 1 if self.gain is None else self.gain

        def linear(vectors: Tensor) -> Tensor:
            centre = vectors - vectors.mean(-1, keepdim=True) if self.centred else vectors
            return centre * factor * gain

        offset = torch.zeros_like(x) if self.bias is None else self.bias.expand(x.shape)
        return HeldMap(linear, offset)
