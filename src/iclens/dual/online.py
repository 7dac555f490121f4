"""Causal attention as online gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.dual.model import DualModel
from iclens.errors import UserError
from iclens.features import FEATURE_MAPS, FeatureMap, FeaturePair, PointwiseFeatureMap
from iclens.kernels import Kernel


@dataclass(frozen=True, eq=False)
class OnlineState:
    """The online learner after some tokens, in units of exp(log_scale), which cancel in h = U φ(q)/(z · φ(q)).

    Attributes:
        U: the weights U_t = Σ_{s≤t} v_s φ(k_s)ᵀ, (..., d_v, n_features).
        z: the same for a target that is always 1, Σ_{s≤t} φ(k_s), (..., n_features).
        magnitude: Σ_{s≤t} ‖v_s‖ |φ(k_s)|, from which the rounding error is told, (..., n_features).
        length: Σ_{s≤t} ‖v_s‖ exp(log_scale_k[s]), likewise, (...).
        log_scale: the largest log-scale of a key so far, (...); the others are divided by its exponential.
    """

    U: Float[Tensor, "*batch d_v n_features"]
    z: Float[Tensor, "*batch n_features"]
    magnitude: Float[Tensor, "*batch n_features"]
    length: Float[Tensor, "*batch"]
    log_scale: Float[Tensor, "*batch"]

    @staticmethod
    def start(phi_k: Float[Tensor, "*batch n n_features"], v: Float[Tensor, "*batch n d_v"]) -> OnlineState:
        """U_0 = 0 for keys and values of these shapes."""
        leading, n_features = phi_k.shape[:-2], phi_k.shape[-1]
        zeros = phi_k.new_zeros(*leading, n_features)
        lowest = phi_k.new_full(leading, torch.finfo(phi_k.dtype).min)
        return OnlineState(
            phi_k.new_zeros(*leading, v.shape[-1], n_features), zeros, zeros, phi_k.new_zeros(leading), lowest
        )


@dataclass(frozen=True, eq=False)
class OnlineRun:
    """What a run over some tokens gave.

    Attributes:
        outputs: h_t for every token, (..., n, d_v): token t's prediction by the learner that has seen tokens up to t.
        state: the learner after the last token, from which a run over later tokens continues.
        precision: estimated relative rounding error of each h_t, (..., n), from the size of what cancels in U_t φ(q_t).
    """

    outputs: Float[Tensor, "*batch n d_v"]
    state: OnlineState
    precision: Float[Tensor, "*batch n"]


def online_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    features: str | FeatureMap | None = None,
    scale: float | None = None,
    *,
    kernel: str | Kernel = "softmax",
    state: OnlineState | None = None,
    chunk_size: int = 64,
) -> OnlineRun:
    """Causal attention, computed by a learner that takes one gradient step for each token in turn.

        U_t = U_{t−1} + v_t φ(k_t)ᵀ,   z_t = z_{t−1} + φ(k_t),   h_t = U_t φ(q_t)/D_t,   D_t = z_t · φ(q_t)

    (D_t = 1 for the linear kernel). The step is gradient descent on ℓ_t(U) = −(1/η) v_tᵀ U φ(k_t) at rate η, which
    cancels as in Theorem 3.1. The state has a fixed size; the keys and values need not be kept.

    Two statements: h equals causal attention whose numerator and normaliser use these features, at any n_features; and
    it equals causal softmax attention as far as the features equal the kernel, for `"mercer-joint"` to rounding.

    Precision: with one basis for all tokens φ(k)ᵀφ(q) is exact to rounding relative to √(k(k,k) k(q,q)), so the
    relative error grows like eps · exp(½ scale · min_s ‖k_s − q_t‖²); `precision` in the result estimates it. Beyond
    1e-8 use `DualModel`, whose kernel form has no such limit.

    Source: Ren & Liu 2024, Theorem 3.1, under a causal mask; derived in docs/theory/online.md. The recurrence is that
    of linear attention (Katharopoulos et al. 2020).

    Args:
        q: queries, (..., n, d).
        k: keys, (..., n, d), one for each query; grouped heads as in `DualModel.from_attention`.
        v: values, (..., n, d_v).
        features: a registered name or a `FeatureMap` with one basis for all queries, that is `"mercer-joint"` or any
            pointwise map; when None, `"identity"` for the linear kernel and `"mercer-joint"` for the others.
        scale: factor of the scores; d^(−1/2) when None (1 for the linear kernel).
        kernel: as in `DualModel.from_attention`.
        state: the learner to continue from; only for pointwise maps, whose features do not depend on the other tokens.
        chunk_size: tokens evaluated at once; the memory beyond the state is O(chunk_size²). The result does not depend
            on it, except for rounding.

    Raises:
        UserError: what `DualModel.from_attention` refuses, as many keys as queries not given, a feature map whose basis
            depends on the query, a state that does not fit, or a normaliser that is not positive.
    """
    if q.ndim < 2 or k.ndim < 2 or q.shape[-2] != k.shape[-2]:
        raise UserError(
            f"q has shape {tuple(q.shape)} and k has {tuple(k.shape)}: online attention needs one key for each query."
        )
    dual = DualModel.from_attention(q, k, v, 1, scale=scale, kernel=kernel)
    if features is None:
        features = "mercer-joint" if dual.kernel.normalizes else "identity"
    feature_map = FEATURE_MAPS[features]() if isinstance(features, str) else features
    if state is not None and not isinstance(feature_map, PointwiseFeatureMap):
        raise UserError(
            f"{type(feature_map).__name__} features depend on all tokens at hand, so a learner cannot continue with "
            "new ones: evaluate them once for the whole prompt and feed slices to `online_from_features`."
        )
    pair = feature_map.pair(dual.q, dual.k, dual.kernel)
    return online_from_features(pair, dual.v, normalizes=dual.kernel.normalizes, state=state, chunk_size=chunk_size)


def online_from_features(
    pair: FeaturePair,
    v: Float[Tensor, "*batch n d_v"],
    *,
    normalizes: bool = True,
    state: OnlineState | None = None,
    chunk_size: int = 64,
) -> OnlineRun:
    """`online_attention` over features that are evaluated already.

    A prompt fed in pieces, each with its slice of the features and the state of the piece before, gives the same
    outputs as the whole prompt.

    Args:
        pair: features of as many queries as keys, in one basis: phi_k's axis of the queries has length 1.
        v: values, (..., n, d_v).
        normalizes: divide by D_t = z_t · φ(q_t).
        state: the learner to continue from.
        chunk_size: tokens evaluated at once.

    Raises:
        UserError: features in a basis of each query's own, a state that does not fit, or a D_t that is not positive.
    """
    if chunk_size < 1:
        raise UserError(f"chunk_size={chunk_size} must be at least 1.")
    n = v.shape[-2]
    if pair.phi_k.shape[-3] != 1 and pair.phi_q.shape[-2] != 1:
        raise UserError(
            "these features have a basis for each query, so no one learner can serve all tokens: use 'mercer-joint' or "
            "a pointwise map."
        )
    phi_k = pair.phi_k.squeeze(-3)
    if pair.phi_q.shape[-2] != n or phi_k.shape[-2] != n:
        raise UserError(
            f"there are {pair.phi_q.shape[-2]} queries, {phi_k.shape[-2]} keys and {n} values: the numbers must agree."
        )
    leading = torch.broadcast_shapes(pair.phi_q.shape[:-2], phi_k.shape[:-2], v.shape[:-2])
    phi_q, phi_k = pair.phi_q.expand(*leading, -1, -1), phi_k.expand(*leading, -1, -1)
    v, log_scale_q = v.expand(*leading, -1, -1), pair.log_scale_q.expand(*leading, -1)
    log_scale_k = pair.log_scale_k.expand(*leading, -1)
    state = OnlineState.start(phi_k, v) if state is None else state
    expected = (*leading, v.shape[-1], phi_k.shape[-1])
    if tuple(state.U.shape) != expected:
        raise UserError(f"the state's U has shape {tuple(state.U.shape)}; these tokens need {expected}.")
    inner_error = 0.0 if pair.inner_error is None else pair.inner_error.detach().squeeze(-1)
    outputs, precisions = [], []
    for start in range(0, n, chunk_size):
        chunk = slice(start, start + chunk_size)
        output, precision, state = _chunk(
            phi_q[..., chunk, :],
            phi_k[..., chunk, :],
            v[..., chunk, :],
            log_scale_q[..., chunk],
            log_scale_k[..., chunk],
            state,
            normalizes,
            inner_error,
            start,
        )
        outputs.append(output)
        precisions.append(precision)
    return OnlineRun(torch.cat(outputs, -2), state, torch.cat(precisions, -1))


def _chunk(
    phi_q: Tensor,
    phi_k: Tensor,
    v: Tensor,
    log_scale_q: Tensor,
    log_scale_k: Tensor,
    state: OnlineState,
    normalizes: bool,
    inner_error: float | Tensor,
    start: int,
) -> tuple[Tensor, Tensor, OnlineState]:
    # Every token has its own reference, the largest scale up to it: one for the chunk would let a later, larger key
    # push the sums of the tokens before it to zero. It cancels, so no gradient needs to pass through it.
    largest = log_scale_k.detach().cummax(-1).values
    reference = torch.maximum(largest, state.log_scale.unsqueeze(-1))
    n = phi_k.shape[-2]
    causal = torch.ones(n, n, dtype=torch.bool, device=v.device).tril()
    relative = log_scale_k.unsqueeze(-2) - reference.unsqueeze(-1)
    within = relative.masked_fill(~causal, -torch.inf).exp()
    carried = (state.log_scale.unsqueeze(-1) - reference).exp()

    inner = (phi_q @ phi_k.mT) * within
    output = inner @ v + carried.unsqueeze(-1) * (phi_q @ state.U.mT)
    lengths = v.norm(dim=-1)
    precision = _precision(phi_q, phi_k, lengths, within, carried, state, inner_error, output)
    if normalizes:
        normalizer = inner.sum(-1) + carried * (phi_q @ state.z.unsqueeze(-1)).squeeze(-1)
        if not bool((normalizer > 0).all()):
            row = start + int((~(normalizer > 0)).nonzero()[0][-1])
            raise UserError(
                f"the normaliser D_t of these features is not positive at token {row} (it vanished or changed sign): "
                "use more features, a higher even Taylor order, or the kernel form."
            )
        output = output / normalizer.unsqueeze(-1)
    else:
        output = output * (reference + log_scale_q).exp().unsqueeze(-1)

    last = reference[..., -1]
    decay = (state.log_scale - last).exp()
    gain = (log_scale_k - last.unsqueeze(-1)).exp().unsqueeze(-1)
    steps = phi_k * gain
    return (
        output,
        precision,
        OnlineState(
            decay[..., None, None] * state.U + v.mT @ steps,
            decay.unsqueeze(-1) * state.z + steps.sum(-2),
            decay.unsqueeze(-1) * state.magnitude + (steps.abs() * lengths.unsqueeze(-1)).sum(-2),
            decay * state.length + (lengths * gain.squeeze(-1)).sum(-1),
            last,
        ),
    )


@torch.no_grad()
def _precision(
    phi_q: Tensor,
    phi_k: Tensor,
    lengths: Tensor,
    within: Tensor,
    carried: Tensor,
    state: OnlineState,
    inner_error: float | Tensor,
    output: Tensor,
) -> Tensor:
    """Rounding of U_t φ(q_t) over its length: that of adding up its terms, and that of the features behind them."""
    column = lengths.unsqueeze(-1)
    adding = ((phi_q.abs() @ phi_k.abs().mT) * within @ column).squeeze(-1)
    adding = adding + carried * (phi_q.abs() @ state.magnitude.unsqueeze(-1)).squeeze(-1)
    all_lengths = (within @ column).squeeze(-1) + carried * state.length.unsqueeze(-1)
    error = torch.finfo(output.dtype).eps * phi_k.shape[-1] ** 0.5 * adding + inner_error * all_lengths
    return error / output.norm(dim=-1).clamp_min(torch.finfo(output.dtype).tiny)
