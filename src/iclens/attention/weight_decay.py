"""The exact gradient step on the regularised loss: weight decay on what the demonstrations did not train."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from iclens.attention import weight_decay_fused
from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.penalized import PenalizedAttention
from iclens.attention.scaled_dot_product import scaled_dot_product, weights_naive
from iclens.attention.self_weights import self_weights
from iclens.attention.shapes import Keys, Mask, Outputs, Queries, Values
from iclens.attention.strength import Strength, finite, is_zero, times
from iclens.attention.variant import ATTENTIONS


def weight_decay_attention(
    q: Queries,
    k: Keys,
    v: Values,
    mask: Mask = None,
    *,
    alpha: Strength,
    demonstrations: Bool[Tensor, " n_key"] | None = None,
    scale: float | None = None,
    is_causal: bool = False,
) -> Outputs:
    """h_t = Σ_{i a demonstration} a_ti v_i + (1 − α) Σ_{i not} a_ti v_i.

    It is exactly one step of rate η on Theorem 3.1's loss plus (λ/2)‖W‖²_F, with α = ηλ: the decay shrinks W_0, and
    W_0 is made of the tokens that are not demonstrations. Derived in docs/theory/regularized.md; Ren & Liu 2024 add
    the same term to the loss but print another form, `regularized_attention`.

    Args:
        q: queries, (..., n_heads, n_query, d).
        k: keys, (..., n_kv_heads, n_key, d).
        v: values, (..., n_kv_heads, n_key, d_v).
        mask: True where a query may attend.
        alpha: α = ηλ, any sign; a number or a tensor that broadcasts over (..., n_heads).
        demonstrations: True for the keys that are demonstrations. None: for every query all keys but its own, so that
            h_t = Σ_i a_ti v_i − α a_tt v_t; the last n_query keys are then those of the queries.
        scale: factor of the scores; d^(−1/2) when None.
        is_causal: the queries are the last tokens and see no later key.

    Raises:
        UserError: arguments that do not fit, α not finite, or more queries than keys where every query needs its own.
    """
    finite("alpha", alpha, q)
    attending = Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal, self_aligned=demonstrations is None)
    if demonstrations is None or is_zero(alpha):
        return _fast(q, k, v, attending, alpha)
    values = repeat_heads(v, attending.n_heads)
    return scaled_dot_product(q, k, values - times(alpha, values * ~demonstrations.unsqueeze(-1)), attending)


def _fast(q: Tensor, k: Tensor, v: Tensor, attending: Attending, alpha: Strength) -> Tensor:
    if is_zero(alpha):
        return scaled_dot_product(q, k, v, attending)
    if weight_decay_fused.fits(q, k, v, alpha):
        return weight_decay_fused.weight_decay_fused(q, k, v, attending, alpha)
    return scaled_dot_product(q, k, v, attending) - _own_offset(q, k, v, attending, alpha)


def _own_offset(q: Tensor, k: Tensor, v: Tensor, attending: Attending, alpha: Strength) -> Tensor:
    own = repeat_heads(attending.own(v), attending.n_heads)
    return times(alpha, self_weights(q, k, attending).unsqueeze(-1) * own)


@ATTENTIONS.register("weight-decay")
class WeightDecayAttention(PenalizedAttention):
    """`weight_decay_attention` as a module; every query's own token is what is not a demonstration.

    Args:
        shape: sizes of the heads.
        alpha: α, one number or one for each head.
        learned: make α a parameter that starts there.

    Raises:
        UserError: α not finite, or a list of the wrong length.
    """

    def offset(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor | None:  # noqa: D102
        return None if is_zero(self.alpha) else _own_offset(q, k, v, attending, self.alpha)

    def attend_less_offset(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return _fast(q, k, v, attending, self.alpha)

    def naive(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        weights = weights_naive(q, k, attending)
        own = torch.eye(attending.n_key, dtype=torch.bool, device=v.device)[-attending.n_query :]
        return (weights - times(self.alpha, weights * own)) @ repeat_heads(v, attending.n_heads)

    def residual(  # noqa: D102
        self, q: Tensor, k: Tensor, v: Tensor, attending: Attending, initial: Tensor, weights: Tensor
    ) -> Tensor | None:
        # Zero, unless the caller's demonstrations are others or a composition put negatives into W_0.
        own_weights = weights.diagonal(attending.first_position, -2, -1).unsqueeze(-1)
        own = repeat_heads(attending.own(v), attending.n_heads)
        return times(self.alpha, initial - own_weights * own)
