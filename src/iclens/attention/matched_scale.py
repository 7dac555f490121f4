"""The control for regularised and negative attention: the rescaling alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from iclens.attention.attending import Attending
from iclens.attention.scaled_dot_product import scaled_dot_product_naive
from iclens.attention.strength import Strength, StrengthOption, finite, times
from iclens.attention.variant import ATTENTIONS, AttentionVariant, HeadShape


def scale_matched(
    out: Float[Tensor, "*batch n_heads n_query d_v"], strength: Strength
) -> Float[Tensor, "*batch n_heads n_query d_v"]:
    """(1 − strength) · out: a head's output with the total mass that α or β leaves to it.

    The rows of A − αI sum to 1 − α, and those of the matrix of negative attention to 1 − β: both change the size of the
    output. This control makes the same change and nothing else.

    Args:
        out: the output of softmax attention.
        strength: the α or β to match; a number or a tensor that broadcasts over (..., n_heads).

    Raises:
        UserError: the strength is not finite.
    """
    return out - times(finite("strength", strength, out), out)


@ATTENTIONS.register("scale-matched")
class ScaleMatchedAttention(AttentionVariant):
    """Softmax attention times (1 − strength); see `scale_matched`.

    Args:
        shape: sizes of the heads.
        strength: the α or β to match, one number or one for each head.
        learned: make it a parameter that starts there.
    """

    strength: Strength

    def __init__(
        self, shape: HeadShape, *, strength: float | Sequence[float] | Tensor = 0.0, learned: bool = False
    ) -> None:
        super().__init__(shape)
        self._strength = StrengthOption("strength", strength, learned=learned, n_heads=shape.n_heads)
        self._strength.attach(self)

    def options(self) -> dict[str, Any]:  # noqa: D102
        return {"strength": self._strength.start, "learned": self._strength.learned}

    def neutral_options(self) -> dict[str, Any] | None:  # noqa: D102
        return {**self.options(), "strength": 0.0}

    def after(self, out: Tensor) -> Tensor:  # noqa: D102
        return scale_matched(out, self.strength)

    def naive(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return scale_matched(scaled_dot_product_naive(q, k, v, attending), self.strength)
