"""Regularised attention as published: the attention matrix minus α times the identity."""

from __future__ import annotations

import torch
from torch import Tensor

from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.penalized import PenalizedAttention
from iclens.attention.scaled_dot_product import scaled_dot_product, scaled_dot_product_naive
from iclens.attention.shapes import Keys, Mask, Outputs, Queries, Values
from iclens.attention.strength import Strength, finite, is_zero, times
from iclens.attention.variant import ATTENTIONS


def regularized_attention(
    q: Queries,
    k: Keys,
    v: Values,
    mask: Mask = None,
    *,
    alpha: Strength,
    scale: float | None = None,
    is_causal: bool = False,
) -> Outputs:
    """h_j = Σ_i a_ji v_i − α v_j: the matrix A − αI.

    v_j is the value of the query's own token; the last n_query keys are those of the queries. A negative α adds a skip
    connection of the values. A query that may attend to nothing gets −α v_j.

    Source: Ren & Liu 2024, h' = W_V X {softmax(·) − αI}. It is not the gradient step on the regularised loss, which is
    `weight_decay_attention`; the difference is in closed form in docs/theory/regularized.md.

    Args:
        q: queries, (..., n_heads, n_query, d), n_query <= n_key.
        k: keys, (..., n_kv_heads, n_key, d).
        v: values, (..., n_kv_heads, n_key, d_v).
        mask: True where a query may attend.
        alpha: α, any sign; a number or a tensor that broadcasts over (..., n_heads).
        scale: factor of the scores; d^(−1/2) when None.
        is_causal: the queries are the last tokens and see no later key.

    Raises:
        UserError: arguments that do not fit, α not finite, or more queries than keys (cross-attention).
    """
    attending = Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal, self_aligned=True)
    finite("alpha", alpha, q)
    return _less_own_values(scaled_dot_product(q, k, v, attending), v, attending, alpha)


def own_value_offset(v: Tensor, attending: Attending, alpha: Strength) -> Tensor | None:
    """α v_j of every query's own token, (..., n_heads, n_query, d_v); None for α = 0."""
    return None if is_zero(alpha) else times(alpha, repeat_heads(attending.own(v), attending.n_heads))


def _less_own_values(out: Tensor, v: Tensor, attending: Attending, alpha: Strength) -> Tensor:
    """`out` − α v_j; for a plain number in one pass over memory instead of two."""
    if not isinstance(alpha, Tensor) and alpha:
        return torch.sub(out, repeat_heads(attending.own(v), attending.n_heads), alpha=alpha)
    offset = own_value_offset(v, attending, alpha)
    return out if offset is None else out - offset


@ATTENTIONS.register("regularized")
class RegularizedAttention(PenalizedAttention):
    """`regularized_attention` as a module.

    Args:
        shape: sizes of the heads.
        alpha: α, one number or one for each head.
        learned: make α a parameter that starts there.

    Raises:
        UserError: α not finite, or a list of the wrong length.
    """

    def attend_less_offset(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return _less_own_values(self.attend(q, k, v, attending), v, attending, self.alpha)

    def offset(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor | None:  # noqa: D102
        return own_value_offset(v, attending, self.alpha)

    def naive(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        identity = torch.eye(attending.n_key, dtype=v.dtype, device=v.device)[-attending.n_query :]
        own = times(self.alpha, identity.expand(attending.n_heads, -1, -1)) @ repeat_heads(v, attending.n_heads)
        return scaled_dot_product_naive(q, k, v, attending) - own

    def residual(  # noqa: D102
        self, q: Tensor, k: Tensor, v: Tensor, attending: Attending, initial: Tensor, weights: Tensor
    ) -> Tensor | None:
        return published_residual(v, attending, self.alpha, initial)


def published_residual(v: Tensor, attending: Attending, alpha: Strength, initial: Tensor) -> Tensor:
    """Published form minus the exact step: α (W_0 φ(q_j) − v_j), (..., n_heads, n_query, d_v).

    When the query's own token is all that is not a demonstration, W_0 φ(q_j) = a_jj v_j and this is −α (1 − a_jj) v_j.

    Args:
        v: values, (..., n_kv_heads, n_key, d_v).
        attending: who attends to whom.
        alpha: α.
        initial: W_0 φ(q_j), (..., n_heads, n_query, d_v).
    """
    return times(alpha, initial - repeat_heads(attending.own(v), attending.n_heads))
