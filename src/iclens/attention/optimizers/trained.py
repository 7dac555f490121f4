"""What all variants with another optimizer share: targets that the trained model reads out, and their dual."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from iclens.attention.attending import Attending
from iclens.attention.optimizers.key_gram import system, wide
from iclens.attention.optimizers.training_sets import seen_keys
from iclens.attention.scaled_dot_product import weights_naive
from iclens.attention.variant import AttentionVariant
from iclens.attention.variant_dual import VariantDual
from iclens.dual import StepLoss

_MOST_NUMBERS = 2**24
"""Entries of the matrices of several queries that are solved with at once."""


class TrainedAttention(AttentionVariant):
    """Attention on the targets that an optimizer leaves at the keys, h_t = Σ_i a_ti u_ti.

    The optimizer trains W on the pairs (φ_i, v_i) of the keys that query t may attend to, in their order, from W = 0.
    What it gives is a sum over them, W = Σ_i u_ti φ_iᵀ up to a factor, so that its prediction is attention with u_ti in
    the place of v_i: one step on the linear loss with other targets, which is what `dual` gives. `dual_loss` is the
    loss that the optimizer itself works on, where this is another one.
    """

    permutes = False

    @abc.abstractmethod
    def targets(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:
        """u_ti, (..., n_heads, n_query or 1, n_key, d_v), written for reading: one training set after another.

        For keys that query t may not attend to it may be anything finite, since a_ti is 0 there.

        Args:
            q: queries.
            k: keys, as `keys` gives them.
            v: values.
            attending: who attends to whom.
        """

    def weights(self, q: Tensor, k: Tensor, attending: Attending) -> Tensor:
        """a_ti, (..., n_heads, n_query, n_key), from the whole matrix."""
        return weights_naive(q, k, attending)

    def optimized_loss(self, k: Tensor, v: Tensor, attending: Attending) -> StepLoss | None:
        """Return the loss that the optimizer works on, before and after, each (..., n_heads, n_query or 1).

        None where it is the linear loss of `dual`.
        """
        return None

    def naive(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        k, v = self.modified(k, v, attending)
        weights = self.weights(wide(q), wide(k), attending)
        return (weights.unsqueeze(-2) @ wide(self.targets(q, k, v, attending))).squeeze(-2).to(v.dtype)

    def dual(  # noqa: D102
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        demonstrations: int | Tensor | None = None,
        mask: Tensor | None = None,
        scale: float | None = None,
        *,
        is_causal: bool = False,
    ) -> VariantDual:
        attending = Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal, self_aligned=self.self_aligned)
        k, v = self.modified(k, v, attending)
        return VariantDual.of(
            q,
            k,
            v,
            attending,
            demonstrations,
            kernel=self.kernel(attending, q.shape[-1]),
            decay=0.0,
            negatives=None,
            residual=lambda initial, weights: None,
            after=self.after,
            targets=self.targets(q, k, v, attending).to(v.dtype),
        )

    def dual_loss(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        demonstrations: int | Tensor | None = None,
        mask: Tensor | None = None,
        scale: float | None = None,
        *,
        is_causal: bool = False,
    ) -> StepLoss:
        """The loss that the optimizer works on, before and after, each (..., n_heads, n_query); over all keys."""
        how: dict[str, Any] = {"scale": scale, "is_causal": is_causal}
        attending = Attending.of(q, k, v, mask, **how, self_aligned=self.self_aligned)
        found = self.optimized_loss(*self.modified(k, v, attending), attending)
        if found is None:
            return self.dual(q, k, v, demonstrations, mask, **how).loss()
        shape = *found.before.shape[:-1], attending.n_query
        return StepLoss(*(side.expand(shape).to(v.dtype) for side in found))


def one_by_one(
    solve: Callable[[Tensor, Tensor], Tensor],
    weights: Tensor,
    gram: Tensor,
    v: Tensor,
    attending: Attending,
) -> Tensor:
    """Σ_i a_ti u_ti with u_t = M_t⁻¹ V for a matrix M_t of each query's own, a block of queries at a time.

    Args:
        solve: y with M_tᵀ y = a_t, from M_t (..., n_key, n_key) and a_t (..., n_key, 1).
        weights: a_ti, (..., n_heads, n_query, n_key).
        gram: what M_t has beside its diagonal of 1, where the query sees both keys; (..., n_heads, n_key, n_key).
        v: values, (..., n_heads, n_key, d_v).
        attending: who attends to whom.
    """
    seen = seen_keys(attending, v.device)
    seen = seen.expand(*seen.shape[:-2], attending.n_query, attending.n_key)
    leading = torch.broadcast_shapes(gram.shape[:-2], seen.shape[:-2], weights.shape[:-2])
    step = max(1, _MOST_NUMBERS // (leading.numel() * attending.n_key**2))
    outs = []
    for start in range(0, attending.n_query, step):
        rows = slice(start, start + step)
        matrix = system(gram.unsqueeze(-3), seen[..., rows, :])
        outs.append(solve(matrix, weights[..., rows, :].unsqueeze(-1)).squeeze(-1) @ v)
    return torch.cat(outs, -2)
