"""Plain softmax attention: the variant that the others are checked against."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from iclens.attention.attending import Attending
from iclens.attention.scaled_dot_product import scaled_dot_product, scaled_dot_product_naive
from iclens.attention.shapes import Keys, Mask, Outputs, Queries, Values
from iclens.attention.variant import ATTENTIONS, AttentionVariant


def softmax_attention(
    q: Queries, k: Keys, v: Values, mask: Mask = None, *, scale: float | None = None, is_causal: bool = False
) -> Outputs:
    """h_t = Σ_i a_ti v_i with a_t = softmax(s q_tᵀk_i).

    Args:
        q: queries, (..., n_heads, n_query, d).
        k: keys, (..., n_kv_heads, n_key, d).
        v: values, (..., n_kv_heads, n_key, d_v).
        mask: True where a query may attend.
        scale: s; d^(−1/2) when None.
        is_causal: the queries are the last tokens and see no later key.

    Raises:
        UserError: arguments that do not fit.
    """
    return scaled_dot_product(q, k, v, Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal))


def softmax_attention_naive(
    q: Queries, k: Keys, v: Values, mask: Mask = None, *, scale: float | None = None, is_causal: bool = False
) -> Outputs:
    """`softmax_attention` from the whole matrix of weights."""
    return scaled_dot_product_naive(q, k, v, Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal))


@ATTENTIONS.register("softmax")
class SoftmaxAttention(AttentionVariant):
    """`softmax_attention` as a module. Its dual is Ren & Liu 2024, Theorem 3.1."""

    def options(self) -> dict[str, Any]:  # noqa: D102
        return {}

    def neutral_options(self) -> dict[str, Any] | None:  # noqa: D102
        return {}

    def naive(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return scaled_dot_product_naive(q, k, v, attending)
