"""The dual model of an attention variant: one gradient step, its weight decay, and what the step does not give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.attention.attending import Attending, repeat_heads
from iclens.dual import DualModel, StepLoss
from iclens.kernels import Kernel


@dataclass(frozen=True, eq=False)
class VariantDual:
    """The gradient step behind a variant.

    W_0 and the loss are those of `start`, whose positives ṽ and keys k̃ are already the variant's. With weight decay
    δ = ηα (δ = 0 for most variants) the loss is

        L(W) = −(1/(ηD)) Σ_{i a demonstration} ṽ_iᵀ W φ(k̃_i) + (α/2) ‖W‖²_F

    and one step from W_0 gives Ŵ = (1 − δ) W_0 + (1/D) Σ_i ṽ_i φ(k̃_i)ᵀ. Every query has its own L, W_0 and Ŵ: `start`
    carries the queries on a leading axis.

    Attributes:
        start: the dual model before the step's decay; its leading axes are (..., n_heads, n_query), one query each.
        decay: δ, broadcasting over (..., n_heads, n_query).
        residual: the variant's output before `after` minus Ŵφ(q), in closed form, (..., n_heads, n_query, d_v).
        after: what follows the head's output.
    """

    start: DualModel
    decay: float | Tensor
    residual: Float[Tensor, "*batch n_heads n_query d_v"] | None
    after: Callable[[Tensor], Tensor]

    @staticmethod
    def of(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attending: Attending,
        demonstrations: int | Tensor | None,
        *,
        kernel: Kernel,
        decay: float | Tensor,
        negatives: Tensor | None,
        residual: Callable[[Tensor, Tensor], Tensor | None],
        after: Callable[[Tensor], Tensor],
        targets: Tensor | None = None,
    ) -> VariantDual:
        """Build the step from what a variant's hooks give; see `AttentionVariant.dual`.

        Args:
            q: queries, (..., n_heads, n_query, d).
            k: modified keys, (..., n_kv_heads, n_key, d).
            v: modified values, (..., n_kv_heads, n_key, d_v).
            attending: who attends to whom.
            demonstrations: as in `DualModel.from_attention`; None for every key but the query's own.
            kernel: k(x, y).
            decay: δ.
            negatives: what is subtracted from every positive of a query, (..., n_heads, n_query, d_v); None for
                nothing.
            residual: from W_0 φ(q), (..., n_heads, n_query, d_v), and the attention weights, (..., n_heads, n_query,
                n_key), to the output minus the prediction; None for zero.
            after: what follows the head's output.
            targets: positives of every query's own, in the place of `v`, (..., n_heads, n_query or 1, n_key, d_v); None
                for the values.
        """
        keys, positives = (repeat_heads(tensor, attending.n_heads).unsqueeze(-3) for tensor in (k, v))
        if targets is not None:
            positives = targets
        if negatives is not None:
            positives = positives - negatives.unsqueeze(-2)
        allowed = attending.allowed(q.device)
        if allowed is not None:
            allowed = allowed.expand(*allowed.shape[:-2], attending.n_query, attending.n_key).unsqueeze(-2)
        if demonstrations is None:
            every = torch.ones(attending.n_query, attending.n_key, dtype=torch.bool, device=q.device)
            own = every.tril(attending.first_position).triu(attending.first_position)
            demonstrations = ~own
        start = DualModel.from_attention(q.unsqueeze(-2), keys, positives, demonstrations, allowed, kernel=kernel)
        if isinstance(decay, Tensor):
            decay = decay.unsqueeze(-1) if decay.ndim else decay
        rest = residual(start.initial().squeeze(-2), start.coefficients.squeeze(-2))
        return VariantDual(start, decay, rest, after)

    @property
    def stepped(self) -> DualModel:
        """The dual model whose W_0 has decayed: its Ŵ is that of the step."""
        factor = 1 - torch.as_tensor(self.decay, dtype=self.start.v.dtype, device=self.start.v.device)[..., None, None]
        kept = torch.where((self.start.groups.ids >= 0).unsqueeze(-1), torch.ones_like(factor), factor)
        return replace(self.start, v=self.start.v * kept)

    def predict(self) -> Float[Tensor, "*batch n_heads n_query d_v"]:
        """after(Ŵφ(q)): the prediction after the step."""
        return self.after(self.stepped.predict().squeeze(-2))

    def forward(self) -> Float[Tensor, "*batch n_heads n_query d_v"]:
        """after(Ŵφ(q) + residual): what the attention variant gives."""
        step = self.stepped.predict().squeeze(-2)
        return self.after(step if self.residual is None else step + self.residual)

    def loss(self) -> StepLoss:
        """L(W_0) and L(Ŵ) with η = 1, each (..., n_heads, n_query)."""
        initial_only = replace(self.start, v=self.start.v * (self.start.groups.ids < 0).unsqueeze(-1))
        stepped = self.stepped
        penalty = torch.as_tensor(self.decay, dtype=self.start.v.dtype) / 2
        while penalty.ndim and penalty.ndim < 2:
            penalty = penalty.unsqueeze(-1)
        before = self.start.loss().before.squeeze(-1) + penalty * initial_only.weight_norm().squeeze(-1).square()
        after = stepped.loss().after.squeeze(-1) + penalty * stepped.weight_norm().squeeze(-1).square()
        return StepLoss(before, after)
