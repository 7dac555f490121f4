"""Softmax attention as online gradient descent with momentum: a pair counts more, the longer ago it was learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.optimizers.key_gram import wide
from iclens.attention.optimizers.trained import TrainedAttention
from iclens.attention.optimizers.training_sets import seen_keys
from iclens.attention.scaled_dot_product import four_axes, scaled_dot_product, weights_naive
from iclens.attention.shapes import Keys, Mask, Outputs, Queries, Values
from iclens.attention.strength import Strength, StrengthOption, below_one, is_zero, on_heads
from iclens.attention.variant import ATTENTIONS, HeadShape

_AT_A_TIME = 256
"""Queries that go through the kernel together."""


def momentum_attention(
    q: Queries,
    k: Keys,
    v: Values,
    mask: Mask = None,
    *,
    momentum: Strength = 0.5,
    mirrored: bool = False,
    scale: float | None = None,
    is_causal: bool = False,
) -> Outputs:
    """h_t = Σ_i c_ti e^{s q_tᵀk_i} v_i / Σ_i c_ti e^{s q_tᵀk_i}, c_ti = 1 − μ^{1 + r}, r the keys that t sees after i.

    It is the prediction at φ(q_t) of the dual model after one step with heavy-ball momentum for each key that query t
    may attend to, in their order, M_i = μ M_{i−1} + v_i φ(k_i)ᵀ, W_i = W_{i−1} + M_i, over that of the same optimizer
    for a target of 1. The loss is the linear one of softmax attention, so that momentum can only weigh the pairs:
    pair i moved W by 1 + μ + … + μ^r times its step so far. μ = 0 is softmax attention.

    Cost: without a mask, or with a causal one, that of fused attention and up to a sixth more; another mask, or
    `mirrored` under a causal one, takes a matrix of n_query · n_key numbers, shared by the heads.

    Source: ours (docs/theory/better-optimizers.md).

    Args:
        q: queries, (..., n_heads, n_query, d).
        k: keys, (..., n_kv_heads, n_key, d).
        v: values, (..., n_kv_heads, n_key, d_v).
        mask: True where a query may attend; other keys are no steps.
        momentum: μ in [0, 1); a number or a tensor that broadcasts over (..., n_heads). It has no gradient.
        mirrored: the control: the same weights in the opposite order, r the keys that t sees before i.
        scale: s; d^(−1/2) when None.
        is_causal: the queries are the last tokens and see no later key.

    Raises:
        UserError: arguments that do not fit, or μ outside [0, 1).
    """
    below_one("momentum", momentum, q)
    return _fast(q, k, v, Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal), momentum, mirrored)


def _fast(q: Tensor, k: Tensor, v: Tensor, attending: Attending, momentum: Strength, mirrored: bool) -> Tensor:
    if is_zero(momentum):
        return scaled_dot_product(q, k, v, attending)
    if attending.is_causal and attending.mask is None and not mirrored:
        return torch.cat(list(_in_turn(q, k, v, attending, momentum)), -2)
    allowed = attending.allowed(q.device)
    # Queries that see the same keys have the same weights, and the kernel then reads one row for all of them.
    bias = _log_weights(momentum, _later(attending, mirrored, q.device)).to(q.dtype)
    if allowed is not None:
        bias = bias.masked_fill(~allowed, -torch.inf)
    return _biased(q, k, v, bias, attending.scale)


def _in_turn(q: Tensor, k: Tensor, v: Tensor, attending: Attending, momentum: Strength) -> Iterator[Tensor]:
    """Causal outputs of some queries at a time, which spares them the keys that come later.

    How many keys a query sees after one is how far back that is. Read backwards, queries have the same row of biases,
    shifted by one: pieces of one list that overlap, and no matrix.
    """
    n_query, n_key = attending.n_query, attending.n_key
    ages = torch.arange(n_key, device=q.device).flip(0).reshape(1, 1, -1)
    row = pad(_log_weights(momentum, ages).to(q.dtype).squeeze(-2), (0, _AT_A_TIME - 1), value=-torch.inf)
    for start in range(0, n_query, _AT_A_TIME):
        some = q[..., start : start + _AT_A_TIME, :].flip(-2)
        seen = n_key - n_query + start + some.shape[-2]
        bias = row[..., n_key - seen :].unfold(-1, seen, 1)[..., : some.shape[-2], :]
        # Kernels of other devices want rows that begin at multiples of some bytes.
        bias = bias if q.device.type == "cpu" else bias.contiguous()
        yield _biased(some, k[..., :seen, :], v[..., :seen, :], bias, attending.scale).flip(-2)


def _biased(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float | None) -> Tensor:
    """Softmax attention with numbers added to its scores, (..., heads or 1, n_query or 1, n_key)."""
    attending = Attending.of(q, k, v, scale=scale)
    leading = torch.broadcast_shapes(q.shape[:-3], k.shape[:-3], v.shape[:-3], bias.shape[:-3])
    given = four_axes(q.expand(*leading, *q.shape[-3:]), k, v, attending)
    if bias.ndim > 3:
        bias = bias.expand(*leading, *bias.shape[-3:]).reshape(-1, *bias.shape[-3:])
    bias = bias.expand(*bias.shape[:-2], attending.n_query, attending.n_key)
    out = scaled_dot_product_attention(
        given.q,
        given.k,
        given.v,
        attn_mask=bias if bias.ndim == 4 else bias.unsqueeze(0),
        scale=scale,
        enable_gqa=given.q.shape[-3] != given.k.shape[-3],
    )
    return given.restored(out)


def _later(attending: Attending, mirrored: bool, device: torch.device) -> Tensor:
    """How many keys each query sees after (mirrored: before) each key, (..., heads or 1, n_query or 1, n_key)."""
    seen = seen_keys(attending, device)
    return seen.cumsum(-1) - seen.int() if mirrored else seen.flip(-1).cumsum(-1).flip(-1) - seen.int()


def _log_weights(momentum: Strength, later: Tensor) -> Tensor:
    """log(1 − μ^{1 + r})."""
    momentum = torch.as_tensor(on_heads(momentum), dtype=torch.float64, device=later.device).detach()
    return torch.log1p(-momentum.pow(later + 1))


@ATTENTIONS.register("momentum")
class MomentumAttention(TrainedAttention):
    """`momentum_attention` as a module.

    Args:
        shape: sizes of the heads.
        momentum: μ, one number or one for each head.
        mirrored: the control, with the weights in the opposite order.

    Raises:
        UserError: μ outside [0, 1), or a list of the wrong length.
    """

    momentum: Strength

    def __init__(
        self, shape: HeadShape, *, momentum: float | Sequence[float] | Tensor = 0.5, mirrored: bool = False
    ) -> None:
        super().__init__(shape)
        below_one("momentum", momentum.tolist() if isinstance(momentum, Tensor) else momentum)
        self._momentum = StrengthOption("momentum", momentum, learned=False, n_heads=shape.n_heads)
        self._momentum.attach(self)
        self.mirrored = mirrored

    def options(self) -> dict[str, Any]:  # noqa: D102
        return {"momentum": self._momentum.start, "mirrored": self.mirrored}

    def neutral_options(self) -> dict[str, Any] | None:  # noqa: D102
        return {**self.options(), "momentum": 0.0}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return _fast(q, k, v, attending, self.momentum, self.mirrored)

    def targets(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        # c_ti v_i D_t/D'_t, D the normaliser of softmax attention and D' that of the optimizer.
        counted = _log_weights(self.momentum, _later(attending, self.mirrored, q.device)).exp()
        total = (weights_naive(wide(q), wide(k), attending) * counted).sum(-1, keepdim=True)
        share = counted / torch.where(total > 0, total, 1.0)
        return share.unsqueeze(-1) * wide(repeat_heads(v, attending.n_heads)).unsqueeze(-3)
