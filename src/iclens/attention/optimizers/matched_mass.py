"""The control for attention on trained targets: the mass of each row's weights, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.optimizers.key_gram import wide
from iclens.attention.optimizers.trained import TrainedAttention
from iclens.attention.scaled_dot_product import scaled_dot_product
from iclens.attention.variant import ATTENTIONS, HeadShape, build
from iclens.errors import UserError


@ATTENTIONS.register("mass-matched")
class MassMatchedAttention(TrainedAttention):
    """Softmax attention, every row times the sum m_t of the weights with which another variant sums up the values.

    A variant h_t = Σ_i w_ti v_i whose optimizer trains on the values changes the size of the output, by m_t = Σ_i w_ti,
    its own output for values of 1, and which values count. This control makes the first change alone, with the same
    parameters and, since m_t takes the same solve, at the same cost.

    Args:
        shape: sizes of the heads.
        of: registered name of the variant to match, which must have softmax attention as its neutral case.
        of_options: its options.

    Raises:
        UserError: an unknown variant or option, or a variant that is not linear in its values with softmax weights.
    """

    def __init__(
        self, shape: HeadShape, *, of: str = "kernel-ridge", of_options: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(shape)
        self.of, self.of_options = of, dict(of_options or {})
        inner = build(
            of, n_heads=shape.n_heads, d=shape.d, d_v=shape.d_v, n_kv_heads=shape.n_kv_heads, **self.of_options
        )
        if not isinstance(inner, TrainedAttention) or isinstance(inner, MassMatchedAttention):
            raise UserError(f"of={of!r} has no mass to match: name a variant that trains its dual model further.")
        if inner.neutral_options() is None:
            raise UserError(f"of={of!r} does not read with softmax weights, so that their sum is nothing to match.")
        self.inner = inner
        self.permutes = inner.permutes

    def options(self) -> dict[str, Any]:  # noqa: D102
        return {"of": self.of, "of_options": {**self.of_options, **self.inner.options()}}

    def neutral_options(self) -> dict[str, Any] | None:  # noqa: D102
        return {"of": self.of, "of_options": self.inner.neutral_options()}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        out = scaled_dot_product(q, k, v, attending)
        if self.inner.options() == self.inner.neutral_options():
            return out
        # Values as wide as the others', so that the same kernels run.
        mass = self.inner.attend(q, k, torch.ones_like(v), attending)[..., :1]
        return out * mass

    def targets(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        mass = self.inner.naive(wide(q), wide(k), torch.ones_like(wide(v)), attending)[..., :1]
        return wide(repeat_heads(v, attending.n_heads)).unsqueeze(-3) * mass.unsqueeze(-2)
