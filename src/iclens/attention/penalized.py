"""What the two regularised variants share: a loss with a penalty on the weights, and the strength of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from iclens.attention.strength import Strength, StrengthOption
from iclens.attention.variant import AttentionVariant, HeadShape


class PenalizedAttention(AttentionVariant):
    """A variant whose loss has the penalty (α/2)‖W‖²_F, and whose queries are tokens of the context.

    Args:
        shape: sizes of the heads.
        alpha: α, one number or one for each head.
        learned: make α a parameter that starts there.

    Raises:
        UserError: α not finite, or a list of the wrong length.
    """

    permutes = False
    self_aligned = True
    alpha: Strength

    def __init__(
        self, shape: HeadShape, *, alpha: float | Sequence[float] | Tensor = 0.0, learned: bool = False
    ) -> None:
        super().__init__(shape)
        self._alpha = StrengthOption("alpha", alpha, learned=learned, n_heads=shape.n_heads)
        self._alpha.attach(self)

    def options(self) -> dict[str, Any]:  # noqa: D102
        return {"alpha": self._alpha.start, "learned": self._alpha.learned}

    def neutral_options(self) -> dict[str, Any] | None:  # noqa: D102
        return {**self.options(), "alpha": 0.0}

    def decay(self) -> float | Tensor:  # noqa: D102
        return self.alpha
