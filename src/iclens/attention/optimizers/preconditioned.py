"""Softmax attention on values that are freed of what earlier, similar keys already said, in the spirit of LUCID."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.optimizers import online
from iclens.attention.optimizers.key_gram import softmax_gram, wide
from iclens.attention.optimizers.rated import RatedAttention
from iclens.attention.optimizers.training_sets import TrainingSets, has_heads
from iclens.attention.scaled_dot_product import scaled_dot_product, weights_naive
from iclens.attention.shapes import Keys, Mask, Outputs, Queries, Values
from iclens.attention.strength import Strength, finite, is_zero
from iclens.attention.variant import ATTENTIONS
from iclens.dual import StepLoss


def preconditioned_attention(
    q: Queries,
    k: Keys,
    v: Values,
    mask: Mask = None,
    *,
    rate: Strength = 1.0,
    scale: float | None = None,
    is_causal: bool = False,
) -> Outputs:
    """h_t = Σ_i a_ti e_i with e = (I + β tril(C, −1))⁻¹ V, C_ij = exp(−s ‖k_i − k_j‖²/2), a_t = softmax(s q_tᵀk_i).

    e_i = v_i − W_{i−1} φ_i is the error that a model of φ_i = φ(k_i)/‖φ(k_i)‖ makes on pair i before it learns it, when
    it takes one step of rate β on ½‖W φ_i − v_i‖² for each token in turn: the delta rule, in the features of softmax
    attention. The softmax weights then read W. β = 0 is softmax attention; β = 1 learns every pair exactly before
    it goes on.

    Time O(n_key² d), memory O(n_key²) for each key head, in double precision. Masks under which the keys that the
    queries see are not prefixes of one list (sliding windows, packed sequences) take time O(n_query n_key²) for each
    query head.

    Source: in the spirit of LUCID (2602.10410), whose preconditioner is (M ∘ exp(KKᵀ))⁻¹ with a causal M; β = 1 is
    that up to a factor where keys are equally long. β, the features' length of 1 and other masks are ours
    (docs/theory/better-optimizers.md).

    Args:
        q: queries, (..., n_heads, n_query, d).
        k: keys, (..., n_kv_heads, n_key, d).
        v: values, (..., n_kv_heads, n_key, d_v).
        mask: True where a query may attend; the keys that a query may not attend to do not train its model.
        rate: β; a number or a tensor that broadcasts over (..., n_kv_heads). Steps do not overshoot for 0 ≤ β ≤ 2.
        scale: s; d^(−1/2) when None.
        is_causal: the queries are the last tokens and see no later key.

    Raises:
        UserError: arguments that do not fit, or β not finite.
    """
    finite("rate", rate, k)
    return _fast(q, k, v, Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal), rate)


def _fast(q: Tensor, k: Tensor, v: Tensor, attending: Attending, rate: Strength) -> Tensor:
    if is_zero(rate):
        return scaled_dot_product(q, k, v, attending)
    gram = softmax_gram(k, attending.scale_for(k.shape[-1]), rate)
    sets = TrainingSets.of(attending, k.device)
    # Errors may be larger than what they sum up to, so that they are read in double precision too.
    dtype, (q, k, v) = v.dtype, (wide(x) for x in (q, k, v))
    if not sets.growing:
        return online.read_one_by_one(weights_naive(q, k, attending), gram, v, attending).to(dtype)
    if has_heads(attending):
        gram, k, v = (repeat_heads(x, attending.n_heads) for x in (gram, k, v))
    return scaled_dot_product(q, k, online.errors(gram, v, sets.visible), attending).to(dtype)


@ATTENTIONS.register("preconditioned")
class PreconditionedAttention(RatedAttention):
    """`preconditioned_attention` as a module.

    Args:
        shape: sizes of the heads.
        rate: β, one number or one for each key head.
        learned: make β a parameter that starts there.

    Raises:
        UserError: β not finite, or a list of the wrong length.
    """

    def neutral_options(self) -> dict[str, Any] | None:  # noqa: D102
        return {"rate": 0.0, "learned": False}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return _fast(q, k, v, attending, self.rate)

    def targets(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return online.errors_naive(self._gram(k, attending), v, attending)

    def optimized_loss(self, k: Tensor, v: Tensor, attending: Attending) -> StepLoss | None:  # noqa: D102
        return online.step_losses(self._gram(k, attending), v, self.rate, attending)

    def _gram(self, k: Tensor, attending: Attending) -> Tensor:
        return softmax_gram(k, attending.scale_for(k.shape[-1]), self.rate)
