"""Who may attend to whom: mask, causality, grouped heads and the scale, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from iclens.errors import UserError


@dataclass(frozen=True, eq=False)
class Attending:
    """Which key each query may attend to, and the factor of the scores.

    Attributes:
        n_query: number of queries.
        n_key: number of keys.
        n_heads: number of query heads.
        mask: True where a query may attend, (..., n_query or 1, n_key); None for everywhere.
        scale: factor of the scores; None for the variant's default.
        is_causal: query j is token j + n_key − n_query and sees no later key. It combines with `mask`.
    """

    n_query: int
    n_key: int
    n_heads: int
    mask: Tensor | None = None
    scale: float | None = None
    is_causal: bool = False

    @staticmethod
    def of(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        *,
        scale: float | None = None,
        is_causal: bool = False,
        self_aligned: bool = False,
    ) -> Attending:
        """Check the tensors of an attention call; shapes only, so that nothing waits for a device.

        Raises:
            UserError: shapes, dtypes, a mask or a scale that do not fit.
        """
        for name, tensor in (("q", q), ("k", k), ("v", v)):
            if tensor.ndim < 3:
                raise UserError(f"{name} has shape {tuple(tensor.shape)}; it must be (..., heads, tokens, width).")
            if not tensor.is_floating_point() or tensor.dtype != q.dtype:
                raise UserError(f"{name} has dtype {tensor.dtype}: q, k and v must have one floating-point dtype.")
        n_query, n_key, n_heads = q.shape[-2], k.shape[-2], q.shape[-3]
        if k.shape[-1] != q.shape[-1]:
            raise UserError(f"q has {q.shape[-1]} features and k has {k.shape[-1]}: they must have the same number.")
        if v.shape[-2] != n_key:
            raise UserError(f"k has {n_key} tokens and v has {v.shape[-2]}: they must have the same number.")
        if k.shape[-3] != v.shape[-3] or n_heads % k.shape[-3]:
            raise UserError(
                f"q has {n_heads} heads, k {k.shape[-3]} and v {v.shape[-3]}: k and v must have the same number of "
                "heads, and q a multiple of it."
            )
        if 0 in (n_query, n_key):
            raise UserError(f"there are {n_query} queries and {n_key} keys: neither may be empty.")
        if (is_causal or self_aligned) and n_query > n_key:
            why = "is_causal" if is_causal else "this variant"
            raise UserError(
                f"{why} needs every query to have a key of its own, the last ones; there are {n_query} queries and "
                f"only {n_key} keys (cross-attention?)."
            )
        if scale is not None and not 0 < scale < math.inf:
            raise UserError(f"scale={scale} must be a positive finite number.")
        if mask is not None:
            if mask.dtype != torch.bool:
                raise UserError(f"mask has dtype {mask.dtype}; it must be bool, True where the query may attend.")
            if mask.ndim < 2 or mask.shape[-1] != n_key or mask.shape[-2] not in (1, n_query):
                raise UserError(f"mask has shape {tuple(mask.shape)}; its last two axes must be ({n_query}, {n_key}).")
            if mask.ndim > 2 and mask.shape[-3] not in (1, n_heads):
                raise UserError(f"mask has shape {tuple(mask.shape)}: its axis of heads must be 1 or {n_heads}.")
        leading = [tensor.shape[:-3] for tensor in (q, k, v)]
        leading += [mask.shape[:-3]] if mask is not None else []
        try:
            torch.broadcast_shapes(*leading)
        except RuntimeError:
            shapes = ", ".join(str(tuple(shape)) for shape in leading)
            raise UserError(
                f"the leading axes of q, k, v and mask do not broadcast (in this order): {shapes}."
            ) from None
        return Attending(n_query, n_key, n_heads, mask, scale, is_causal)

    def scale_for(self, d: int) -> float:
        """Return the given scale, or d^(−1/2)."""
        return d**-0.5 if self.scale is None else self.scale

    @property
    def first_position(self) -> int:
        """Position of the first query among the keys, when the queries are the last tokens."""
        return self.n_key - self.n_query

    def allowed(self, device: torch.device) -> Tensor | None:
        """Return the whole mask, causality included, (..., n_query or 1, n_key); None for everywhere."""
        if not self.is_causal or self.n_query == 1:
            return self.mask
        causal = torch.ones(self.n_query, self.n_key, dtype=torch.bool, device=device).tril(self.first_position)
        return causal if self.mask is None else self.mask & causal

    def rows(self, start: int, stop: int, n_key: int, device: torch.device) -> Tensor | None:
        """Return the mask of queries start…stop on the first `n_key` keys."""
        mask = self.mask
        if mask is not None:
            mask = mask[..., start:stop, :n_key] if mask.shape[-2] > 1 else mask[..., :n_key]
        if not self.is_causal or n_key <= start + self.first_position + 1:
            return mask
        causal = torch.ones(stop - start, n_key, dtype=torch.bool, device=device).tril(start + self.first_position)
        return causal if mask is None else mask & causal

    def own(self, x: Tensor) -> Tensor:
        """Return the rows of `x` (…, n_key, width) that belong to the queries' own tokens: the last n_query."""
        return x[..., self.n_key - self.n_query :, :]


def repeat_heads(x: Tensor, n_heads: int) -> Tensor:
    """Grouped heads (..., n_kv_heads, n, width), each repeated for its consecutive query heads."""
    groups = n_heads // x.shape[-3]
    return x if groups == 1 else x.repeat_interleave(groups, -3)
