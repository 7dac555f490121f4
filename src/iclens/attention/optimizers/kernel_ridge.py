"""Softmax attention whose dual model is trained to the end: kernel ridge regression of the values on the keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.optimizers.key_gram import softmax_gram, system, wide
from iclens.attention.optimizers.trained import TrainedAttention, one_by_one
from iclens.attention.optimizers.training_sets import TrainingSets, has_heads, reach, seen_keys
from iclens.attention.scaled_dot_product import scaled_dot_product, weights_naive
from iclens.attention.shapes import Keys, Mask, Outputs, Queries, Values
from iclens.attention.strength import Strength, StrengthOption, below_one, is_zero
from iclens.attention.variant import ATTENTIONS, HeadShape
from iclens.dual import StepLoss

LARGEST = 1 - 1e-8
"""The largest strength: beyond it rounding in double precision may make the matrix of alike keys singular."""


def kernel_ridge_attention(
    q: Queries,
    k: Keys,
    v: Values,
    mask: Mask = None,
    *,
    strength: Strength = 0.5,
    scale: float | None = None,
    is_causal: bool = False,
) -> Outputs:
    """h_t = Σ_i a_ti u_ti with u_t = (I + ρ (C_t − I))⁻¹ V_t over the keys that query t may attend to.

    C_ij = exp(−s ‖k_i − k_j‖²/2) is the softmax kernel of features of length 1, a_t = softmax(s q_tᵀk_i). With the
    ridge parameter λ = 1/ρ − 1 it is u_t = (1 + λ)(C_t + λI)⁻¹ V_t: 1 + λ times the prediction, at the softmax weights,
    of the minimiser of ½ Σ_i ‖W φ_i − v_i‖² + (λ/2)‖W‖². ρ = 0 (λ = ∞) is softmax attention; as ρ → 1 the model fits
    every value.

    All prefixes of a causal context come from one Cholesky factor L of I + ρ (C − I), because the first rows of a
    triangular system do not need the later ones: h_t = Σ_{j ≤ t} (L⁻¹a_t)_j (L⁻¹V)_j, exact for every t.

    Time O(n_key³), memory O(n_key²) for each key head, in double precision. Masks under which the keys that the
    queries see are not prefixes of one list (sliding windows, packed sequences) take time O(n_query n_key³).

    Source: kernel ridge as the end of the dual model's training is docs/theory/trained-to-the-end.md; the scale 1 + λ
    and the causal form are ours (docs/theory/better-optimizers.md).

    Args:
        q: queries, (..., n_heads, n_query, d).
        k: keys, (..., n_kv_heads, n_key, d).
        v: values, (..., n_kv_heads, n_key, d_v).
        mask: True where a query may attend; the keys that a query may not attend to do not train its model.
        strength: ρ in [0, 1); a number or a tensor that broadcasts over (..., n_kv_heads). Entries of a tensor are
            taken for the nearest number in that range, and their gradient passes.
        scale: s; d^(−1/2) when None.
        is_causal: the queries are the last tokens and see no later key.

    Raises:
        UserError: arguments that do not fit, or ρ outside [0, 1).
    """
    below_one("strength", strength, k)
    return _fast(q, k, v, Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal), strength)


def _within(strength: Strength) -> Strength:
    if not isinstance(strength, Tensor):
        return min(strength, LARGEST)
    # A learned strength that a step took too far must find its way back.
    return strength + (strength.clamp(0, LARGEST) - strength).detach()


def _fast(q: Tensor, k: Tensor, v: Tensor, attending: Attending, strength: Strength) -> Tensor:
    if is_zero(strength):
        return scaled_dot_product(q, k, v, attending)
    gram = softmax_gram(k, attending.scale_for(k.shape[-1]), _within(strength))
    # Targets may be larger than what they sum up to, so that they are read in double precision too.
    return _solved(wide(q), wide(k), wide(v), gram, attending).to(v.dtype)


def _solved(q: Tensor, k: Tensor, v: Tensor, gram: Tensor, attending: Attending) -> Tensor:
    sets = TrainingSets.of(attending, k.device)
    if not sets.growing:
        gram, values = (repeat_heads(x, attending.n_heads) for x in (gram, v))
        return one_by_one(_solve, weights_naive(q, k, attending), gram, values, attending)
    if has_heads(attending):
        gram, k, v = (repeat_heads(x, attending.n_heads) for x in (gram, k, v))
    factor = torch.linalg.cholesky(system(gram, sets.visible))
    rows = 1 if attending.mask is None else attending.mask.shape[-2]
    if attending.n_query == 1 or (not attending.is_causal and rows == 1):
        return scaled_dot_product(q, k, torch.cholesky_solve(v, factor), attending)
    return _prefixes(q, k, v, factor, attending)


def _solve(matrix: Tensor, given: Tensor) -> Tensor:
    return torch.cholesky_solve(given, torch.linalg.cholesky(matrix))


def _prefixes(q: Tensor, k: Tensor, v: Tensor, factor: Tensor, attending: Attending) -> Tensor:
    """Σ_{j ≤ t} (L⁻¹a_t)_j (L⁻¹V)_j, the factor of each key head serving its query heads."""
    weights = weights_naive(q, k, attending)
    seen = reach(seen_keys(attending, v.device))
    grouped = weights.unflatten(-3, (k.shape[-3], -1))
    values = torch.linalg.solve_triangular(factor, v, upper=False).unsqueeze(-3)
    solved = torch.linalg.solve_triangular(factor.unsqueeze(-3), grouped.mT, upper=False).mT.flatten(-4, -3)
    return ((solved * seen).unflatten(-3, (k.shape[-3], -1)) @ values).flatten(-4, -3)


@ATTENTIONS.register("kernel-ridge")
class KernelRidgeAttention(TrainedAttention):
    """`kernel_ridge_attention` as a module.

    Args:
        shape: sizes of the heads.
        strength: ρ, one number or one for each key head.
        learned: make ρ a parameter that starts there.

    Raises:
        UserError: ρ outside [0, 1), or a list of the wrong length.
    """

    permutes = True
    strength: Strength

    def __init__(
        self, shape: HeadShape, *, strength: float | Sequence[float] | Tensor = 0.5, learned: bool = False
    ) -> None:
        super().__init__(shape)
        below_one("strength", strength.tolist() if isinstance(strength, Tensor) else strength)
        self._strength = StrengthOption("strength", strength, learned=learned, n_heads=shape.n_kv_heads)
        self._strength.attach(self)

    def options(self) -> dict[str, Any]:  # noqa: D102
        return {"strength": self._strength.start, "learned": self._strength.learned}

    def neutral_options(self) -> dict[str, Any] | None:  # noqa: D102
        return {"strength": 0.0, "learned": False}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return _fast(q, k, v, attending, self.strength)

    def targets(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        gram = softmax_gram(k, attending.scale_for(k.shape[-1]), _within(self.strength))
        gram, values = (wide(repeat_heads(x, attending.n_heads)) for x in (gram, v))
        rows = seen_keys(attending, v.device).unbind(-2)
        return torch.stack([torch.linalg.solve(system(gram, row), values) for row in rows], -3)

    def optimized_loss(self, k: Tensor, v: Tensor, attending: Attending) -> StepLoss | None:  # noqa: D102
        strength = torch.as_tensor(_within(self.strength), dtype=torch.float64, device=v.device)
        if strength.ndim:
            strength = repeat_heads(strength[..., None, None], attending.n_heads).squeeze(-1)
        seen = seen_keys(attending, v.device).unsqueeze(-1)
        values = wide(repeat_heads(v, attending.n_heads)).unsqueeze(-3) * seen
        # At its minimum, λ/2 tr(Vᵀ(C + λI)⁻¹V), the loss is linear in what it trained on.
        end = (1 - strength) * (values * self.targets(v, k, v, attending)).sum((-2, -1)) / 2
        return StepLoss(values.square().sum((-2, -1)) / 2, end)
