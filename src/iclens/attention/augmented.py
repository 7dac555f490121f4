"""Augmented attention: learned views of values and keys."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from iclens.attention.attending import Attending
from iclens.attention.augmentations import Augmentation, augmentation, augmented, described
from iclens.attention.scaled_dot_product import scaled_dot_product, scaled_dot_product_naive
from iclens.attention.shapes import Keys, Mask, Outputs, Queries, Values
from iclens.attention.variant import ATTENTIONS, AttentionVariant, HeadShape
from iclens.errors import UserError


def augmented_attention(
    q: Queries,
    k: Keys,
    v: Values,
    mask: Mask = None,
    *,
    g1: nn.Module | None = None,
    g2: nn.Module | None = None,
    scale: float | None = None,
    is_causal: bool = False,
) -> Outputs:
    """h_t = Σ_i softmax(s q_tᵀg_2(k_i)) g_1(v_i); the query is not augmented.

    Source: Ren & Liu 2024, the model with data augmentation. Derived in docs/theory/augmented.md.

    Args:
        q: queries, (..., n_heads, n_query, d).
        k: keys, (..., n_kv_heads, n_key, d).
        v: values, (..., n_kv_heads, n_key, d_v).
        mask: True where a query may attend.
        g1: maps values to values of the same shape; None for the identity.
        g2: maps keys to keys of the same shape; None for the identity.
        scale: s; d^(−1/2) when None.
        is_causal: the queries are the last tokens and see no later key.

    Raises:
        UserError: arguments that do not fit, a g that changes the shape, or one that looks ahead under causality.
    """
    attending = Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal)
    return scaled_dot_product(q, viewed(g2, k, attending, "g2"), viewed(g1, v, attending, "g1"), attending)


def viewed(g: nn.Module | None, x: Tensor, attending: Attending, what: str) -> Tensor:
    """g(x), with tokens that no query sees set to zero first where g mixes tokens.

    Raises:
        UserError: g changes the shape, or looks ahead under causality.
    """
    if g is None:
        return x
    if getattr(g, "mixes_tokens", False):
        if attending.is_causal and not getattr(g, "causal", True):
            raise UserError(f"{what} is not causal: under a causal mask a token would see later ones. Use causal=True.")
        if attending.mask is not None:
            x = x * attending.mask.any(-2).unsqueeze(-1)
    return augmented(g, x, what)


@ATTENTIONS.register("augmented")
class AugmentedAttention(AttentionVariant):
    """`augmented_attention` as a module; it starts as plain softmax attention.

    A user's own module that mixes tokens should have attributes `mixes_tokens = True` and, if it looks ahead,
    `causal = False`.

    Args:
        shape: sizes of the heads.
        g1: augmentation of the values, see `iclens.attention.augmentations`.
        g2: augmentation of the keys.

    Raises:
        UserError: an unknown augmentation or option.
    """

    def __init__(self, shape: HeadShape, *, g1: Augmentation = None, g2: Augmentation = None) -> None:
        super().__init__(shape)
        self._given = (g1, g2)
        self.g1 = augmentation(g1, n_heads=shape.n_kv_heads, width=shape.d_v)
        self.g2 = augmentation(g2, n_heads=shape.n_kv_heads, width=shape.d)
        self.permutes = not any(getattr(g, "mixes_tokens", False) for g in (self.g1, self.g2))

    def options(self) -> dict[str, Any]:  # noqa: D102
        return {name: described(given) for name, given in zip(("g1", "g2"), self._given, strict=True)}

    def neutral_options(self) -> dict[str, Any] | None:  # noqa: D102
        return dict(zip(("g1", "g2"), self._given, strict=True))

    def extra_repr(self) -> str:  # noqa: D102
        return ""

    def keys(self, k: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return viewed(self.g2, k, attending, "g2")

    def values(self, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return viewed(self.g1, v, attending, "g1")

    def naive(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return scaled_dot_product_naive(q, self.keys(k, attending), self.values(k, v, attending), attending)
