"""The control for augmented attention: the same maps with the same number of parameters, outside the attention."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from iclens.attention.attending import Attending
from iclens.attention.augmentations import Augmentation, augmentation, augmented, described
from iclens.attention.scaled_dot_product import scaled_dot_product_naive
from iclens.attention.variant import ATTENTIONS, AttentionVariant, HeadShape
from iclens.errors import UserError


def parameter_matched(
    out: Float[Tensor, "*batch n_heads n_query d_v"], g1: nn.Module, g2: nn.Module, n_kv_heads: int
) -> Float[Tensor, "*batch n_heads n_query d_v"]:
    """g_2(g_1(out)): the maps that would augment values and keys, applied to the head's output instead.

    Args:
        out: the output of softmax attention.
        g1: the map of the values.
        g2: the map of the keys; widths of keys and values agree.
        n_kv_heads: the maps are those of key heads: query heads of one group share theirs.
    """
    n_query = out.shape[-2]
    # The query heads of one group become more tokens of their key head.
    grouped = out.unflatten(-3, (n_kv_heads, -1)).flatten(-3, -2)
    for name, g in (("g1", g1), ("g2", g2)):
        grouped = augmented(g, grouped, name)
    return grouped.unflatten(-2, (-1, n_query)).flatten(-4, -3)


@ATTENTIONS.register("parameter-matched")
class ParameterMatchedAttention(AttentionVariant):
    """Softmax attention, then the maps that would have augmented it; see `parameter_matched`.

    It has exactly as many parameters as `augmented` with the same options, and starts as plain softmax attention.

    Args:
        shape: sizes of the heads.
        g1: as in `augmented`.
        g2: as in `augmented`.

    Raises:
        UserError: a map that mixes tokens (after the head they are queries, not keys), or a g2 when d and d_v differ.
    """

    def __init__(self, shape: HeadShape, *, g1: Augmentation = None, g2: Augmentation = None) -> None:
        super().__init__(shape)
        if g2 is not None and shape.d != shape.d_v:
            raise UserError(
                f"a control of g2 acts on values: the widths of keys ({shape.d}) and values ({shape.d_v}) must agree."
            )
        self._given = (g1, g2)
        self.g1 = augmentation(g1, n_heads=shape.n_kv_heads, width=shape.d_v)
        self.g2 = augmentation(g2, n_heads=shape.n_kv_heads, width=shape.d_v)
        if any(getattr(g, "mixes_tokens", False) for g in (self.g1, self.g2)):
            raise UserError(
                "a map that mixes tokens has no counterpart after the head's output: match it by an adapter."
            )

    def options(self) -> dict[str, Any]:  # noqa: D102
        return {name: described(given) for name, given in zip(("g1", "g2"), self._given, strict=True)}

    def neutral_options(self) -> dict[str, Any] | None:  # noqa: D102
        return dict(zip(("g1", "g2"), self._given, strict=True))

    def extra_repr(self) -> str:  # noqa: D102
        return ""

    def after(self, out: Tensor) -> Tensor:  # noqa: D102
        return parameter_matched(out, self.g1, self.g2, self.shape.n_kv_heads)

    def naive(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return self.after(scaled_dot_product_naive(q, k, v, attending))
