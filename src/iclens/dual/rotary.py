"""Rotary positions: queries and keys turned by an angle that grows with their position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.errors import UserError


@dataclass(frozen=True, eq=False)
class Rotary:
    """The rotation of queries and keys by their positions, in the half-split layout of Llama.

    At position t, feature m and feature m + r of the first 2r are turned together by the angle t · f_m:

        (x_m, x_{m+r}) ↦ s (x_m cos t f_m − x_{m+r} sin t f_m,  x_{m+r} cos t f_m + x_m sin t f_m)

    and the other features stay. Scores then depend on positions through their differences alone. Angles are computed in
    the dtype of the frequencies, as models do that keep them in float32.

    Source: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", section 3.2.

    Attributes:
        frequencies: f, (r,); 2r at most the width of a head.
        factor: s, a factor of queries and keys that some ways to stretch positions add.
    """

    frequencies: Float[Tensor, " r"]
    factor: float = 1.0

    @staticmethod
    def of(d: int, base: float = 10_000.0, dtype: torch.dtype = torch.float64) -> Rotary:
        """Make the rotation with f_m = base^(−2m/d) of all d features.

        Raises:
            UserError: d is odd.
        """
        if d % 2:
            raise UserError(f"rotary positions turn features in pairs: d={d} is odd.")
        return Rotary(base ** (-torch.arange(0, d, 2, dtype=dtype) / d))

    def __call__(
        self, x: Float[Tensor, "*batch n d"], positions: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "*batch n d"]:
        """Turn queries or keys by their positions; None stands for 0 … n − 1."""
        if positions is None:
            positions = torch.arange(x.shape[-2], device=x.device)
        angles = positions[:, None].to(self.frequencies) * self.frequencies
        cosine, sine = ((wave * self.factor).to(x.dtype) for wave in (angles.cos(), angles.sin()))
        half = len(self.frequencies)
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine, rest], dim=-1)
