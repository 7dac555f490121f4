"""Linear attention trained by the delta rule: one step on the squared loss for each token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.linear import linear_attention
from iclens.attention.optimizers import online
from iclens.attention.optimizers.key_gram import unit_gram, wide
from iclens.attention.optimizers.rated import RatedAttention
from iclens.attention.optimizers.training_sets import TrainingSets, has_heads
from iclens.attention.shapes import Keys, Mask, Outputs, Queries, Values
from iclens.attention.strength import Strength, finite, times
from iclens.attention.variant import ATTENTIONS
from iclens.dual import StepLoss
from iclens.kernels import Kernel, LinearKernel

_CHUNK = 64


def delta_rule_attention(
    q: Queries,
    k: Keys,
    v: Values,
    mask: Mask = None,
    *,
    rate: Strength = 1.0,
    scale: float | None = None,
    is_causal: bool = False,
) -> Outputs:
    """h_t = s S q_t, S_i = S_{i−1} − β (S_{i−1} k̂_i − v_i) k̂_iᵀ over the keys i that query t may attend to, k̂ = k/‖k‖.

    Each token is one step of rate β on ½‖S k̂_i − v_i‖², where linear attention steps on the linear loss −v_iᵀ S k̂_i
    (its control, `hebbian_attention`). Tokens are taken in chunks, within which the errors are a triangular system:
    time O(n_key d (d_v + 64)), memory linear, in double precision. A mask that is not of keys alone costs
    time O(n_query n_key) to read; one under which the keys that the queries see are not prefixes of one list (sliding
    windows, packed sequences) O(n_query n_key²).

    Source: DeltaNet (Schlag et al. 2021; by chunks Yang et al. 2024), with one β for a head instead of one for a token,
    and without a norm of the queries.

    Args:
        q: queries, (..., n_heads, n_query, d).
        k: keys, (..., n_kv_heads, n_key, d); a key of zeros trains nothing.
        v: values, (..., n_kv_heads, n_key, d_v).
        mask: True where a query may attend; the keys that a query may not attend to do not train its model.
        rate: β; a number or a tensor that broadcasts over (..., n_kv_heads). Steps do not overshoot for 0 ≤ β ≤ 2.
        scale: s; 1 when None.
        is_causal: the queries are the last tokens and see no later key.

    Raises:
        UserError: arguments that do not fit, or β not finite.
    """
    finite("rate", rate, k)
    attending = Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal)
    return _fast(q, normalize(k, dim=-1), v, attending, rate)


def _fast(q: Tensor, k: Tensor, v: Tensor, attending: Attending, rate: Strength) -> Tensor:
    """The same on keys of length 1."""
    sets = TrainingSets.of(attending, k.device)
    if not sets.growing:
        weights = _weights(wide(q), wide(k), attending)
        values = times(rate, wide(v))
        return online.read_one_by_one(weights, unit_gram(k, rate), values, attending).to(v.dtype)
    if sets.visible is not None:
        if has_heads(attending):
            k, v = (repeat_heads(x, attending.n_heads) for x in (k, v))
            if isinstance(rate, Tensor) and rate.ndim:
                rate = repeat_heads(rate[..., None, None], attending.n_heads)[..., 0, 0]
        # What trains nothing is a key of zeros.
        k = k * sets.visible.unsqueeze(-1)
    keys = wide(k)
    out = linear_attention(
        wide(q),
        keys,
        _steps(keys, wide(v), rate),
        attending.mask,
        scale=attending.scale,
        is_causal=attending.is_causal,
    )
    return out.to(v.dtype)


def _steps(k: Tensor, v: Tensor, rate: Strength) -> Tensor:
    """β e_i, one chunk after another, (..., n_kv_heads, n_key, d_v)."""
    state: Tensor | None = None
    steps = []
    for keys, values in zip(k.split(_CHUNK, -2), v.split(_CHUNK, -2), strict=True):
        if state is not None:
            values = values - keys @ state
        errors = online.errors(unit_gram(keys, rate), values, None)
        steps.append(times(rate, errors))
        update = keys.mT @ steps[-1]
        state = update if state is None else state + update
    return torch.cat(steps, -2)


def _weights(q: Tensor, k: Tensor, attending: Attending) -> Tensor:
    scale = 1.0 if attending.scale is None else attending.scale
    weights = q @ repeat_heads(k, attending.n_heads).mT * scale
    allowed = attending.allowed(q.device)
    return weights if allowed is None else weights * allowed


class LinearTrainedAttention(RatedAttention):
    """A dual model that is linear in keys of length 1; arguments as in `RatedAttention`."""

    def keys(self, k: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return normalize(k, dim=-1)

    def kernel(self, attending: Attending, d: int) -> Kernel:  # noqa: D102
        return LinearKernel(1.0 if attending.scale is None else attending.scale)

    def weights(self, q: Tensor, k: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return _weights(q, k, attending)


@ATTENTIONS.register("delta-rule")
class DeltaRuleAttention(LinearTrainedAttention):
    """`delta_rule_attention` as a module.

    Args:
        shape: sizes of the heads.
        rate: β, one number or one for each key head.
        learned: make β a parameter that starts there.

    Raises:
        UserError: β not finite, or a list of the wrong length.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return _fast(q, k, v, attending, self.rate)

    def targets(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return online.errors_naive(unit_gram(k, self.rate), times(self.rate, v), attending)

    def optimized_loss(self, k: Tensor, v: Tensor, attending: Attending) -> StepLoss | None:  # noqa: D102
        return online.step_losses(unit_gram(k, self.rate), v, self.rate, attending)
