"""How alike the keys are in feature space, and the matrices that a better optimizer inverts."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.attention.strength import Strength, times
from iclens.features.correlation import correlation
from iclens.kernels import SoftmaxKernel


def softmax_gram(
    k: Float[Tensor, "*batch heads n_key d"], scale: float, strength: Strength
) -> Float[Tensor, "*out heads n_key n_key"]:
    """strength · C with C_ij = φ_i·φ_j, φ_i = φ(k_i)/‖φ(k_i)‖ of the softmax kernel: exp(−scale ‖k_i − k_j‖²/2).

    In double precision: what is solved with it loses as many digits as its condition number has.
    """
    # Rounding must not make an entry larger than those on the diagonal.
    return times(strength, correlation(SoftmaxKernel(scale), wide(k), wide(k)).clamp(max=1.0))


def unit_gram(k: Float[Tensor, "*batch heads n_key d"], strength: Strength) -> Float[Tensor, "*out heads n_key n_key"]:
    """strength · k_iᵀk_j of keys that have length 1, in double precision."""
    return times(strength, wide(k) @ wide(k).mT)


def wide(x: Tensor) -> Tensor:
    """Return `x` in the precision in which optimizers run."""
    return x.double()


def system(
    gram: Float[Tensor, "*batch n_key n_key"], seen: Bool[Tensor, "*batch_s n_key"] | None
) -> Float[Tensor, "*out n_key n_key"]:
    """1 on the diagonal, `gram` between two keys that are seen, 0 elsewhere; None sees all keys."""
    one = torch.eye(gram.shape[-1], dtype=torch.bool, device=gram.device)
    if seen is not None:
        gram = torch.where(seen.unsqueeze(-1) & seen.unsqueeze(-2), gram, 0.0)
    return torch.where(one, 1.0, gram)
