"""What variants with another optimizer share whose steps have a rate β."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from iclens.attention.optimizers.trained import TrainedAttention
from iclens.attention.strength import Strength, StrengthOption
from iclens.attention.variant import HeadShape


class RatedAttention(TrainedAttention):
    """Attention on the targets of an optimizer, and its rate β.

    Args:
        shape: sizes of the heads.
        rate: β, one number or one for each key head.
        learned: make β a parameter that starts there.

    Raises:
        UserError: β not finite, or a list of the wrong length.
    """

    rate: Strength

    def __init__(
        self, shape: HeadShape, *, rate: float | Sequence[float] | Tensor = 1.0, learned: bool = False
    ) -> None:
        super().__init__(shape)
        self._rate = StrengthOption("rate", rate, learned=learned, n_heads=shape.n_kv_heads)
        self._rate.attach(self)

    def options(self) -> dict[str, Any]:  # noqa: D102
        return {"rate": self._rate.start, "learned": self._rate.learned}
