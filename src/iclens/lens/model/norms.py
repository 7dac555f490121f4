"""Normalisations with their scale held: linear (affine) maps, forwards and pulled back.

A norm maps x to s(x) w ⊙ (x − μ x) + b with s = 1/rms or 1/std; μ is the mean for LayerNorm and zero for
RMSNorm. Held at its value, s is a constant and the norm is affine in x. The gate g = s w is read off the
module's own output, so that no family's convention for w (w, 1 + w, none) or its precision needs repeating.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from iclens.errors import UserError

if TYPE_CHECKING:
    from iclens.lens.model.loading import LensModel

CENTRED = ("CohereLayerNorm", "Cohere2LayerNorm", "OlmoLayerNorm", "NemotronLayerNorm1P")


def is_centred(norm: nn.Module) -> bool:
    """True when the norm subtracts the mean (LayerNorm), False when it does not (RMSNorm); others are refused."""
    name = type(norm).__name__
    if type(norm) is nn.LayerNorm or name in CENTRED:
        return True
    if name.endswith("RMSNorm"):
        return False
    raise UserError(f"the normalisation {name} is not one that iclens handles exactly (LayerNorm or RMSNorm).")


def detours(lens_model: LensModel) -> bool:
    """Return whether norms of a model go through float32 whatever its type, as all but PyTorch's own do."""
    anatomy = lens_model.anatomy
    norms = (anatomy.final_norm, *(norm for layer in anatomy.layers for norm in layer.norms))
    return any(norm is not None and not isinstance(norm, nn.LayerNorm) for norm in norms)


def centre(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """x − μ x; symmetric, hence also its own pull-back."""
    return x - x.mean(-1, keepdim=True) if is_centred(norm) else x


def bias_of(norm: nn.Module) -> torch.Tensor | None:
    """b, or None when the norm adds nothing."""
    bias = getattr(norm, "bias", None)
    return bias if isinstance(bias, torch.Tensor) else None


@torch.no_grad()
def gate(norm: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """g = s w at the input x (..., width) with the norm's own output y, such that y = g ⊙ centre(x) + b."""
    if isinstance(norm, nn.LayerNorm):
        # Dividing by a small x − μx would amplify rounding beside the bias, so PyTorch's own formula is used.
        scale = torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + norm.eps)
        if norm.weight is None:
            return scale.expand_as(x)
        return scale * (norm.weight + (1.0 if type(norm).__name__ == "NemotronLayerNorm1P" else 0.0))
    return ratio(norm, centre(norm, x), y)


@torch.no_grad()
def ratio(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """y / x for modules with y = x ⊙ gate(x); where x is exactly zero its limit, read off at a tiny input."""
    zero = x == 0
    if not bool(zero.any()):
        return y / x
    moved = torch.where(zero, 1e-6 * x.abs().amax().clamp_min(1e-6), x)
    # The class's forward, because calling the module would run the hooks that called us.
    return torch.where(zero, type(module).forward(module, moved) / moved, y / moved)


def pull_back(norm: nn.Module, x: torch.Tensor, y: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Jᵀ u for the held norm at the input x: centre(g ⊙ u)."""
    return centre(norm, direction * gate(norm, x, y))


def shift(norm: nn.Module, direction: torch.Tensor) -> torch.Tensor:
    """⟨u, b⟩ for each row of u; zero when the norm adds nothing."""
    bias = bias_of(norm)
    return direction.new_zeros(direction.shape[:-1]) if bias is None else direction @ bias.to(direction.dtype)
