"""Attention with negative samples: every value minus β times the mean value of its negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.constructions import (
    FROM_TOKENS,
    check_count,
    check_names,
    indicator_naive,
    noise,
    tokens_of_keys,
    tokens_of_queries,
)
from iclens.attention.extreme_keys import Chosen
from iclens.attention.scaled_dot_product import scaled_dot_product, scaled_dot_product_naive, weights_naive
from iclens.attention.shapes import Keys, Mask, Outputs, Queries, Values
from iclens.attention.strength import Strength, StrengthOption, finite, is_zero, times
from iclens.attention.variant import ATTENTIONS, AttentionVariant, HeadShape
from iclens.errors import UserError


def negative_attention(
    q: Queries,
    k: Keys,
    v: Values,
    mask: Mask = None,
    *,
    n_negatives: int = 1,
    beta: Strength = 0.1,
    construction: str = "lowest",
    selection: str = "query",
    seed: int = 0,
    vectors: Float[Tensor, "heads n_negatives d_v"] | None = None,
    scale: float | None = None,
    is_causal: bool = False,
) -> Outputs:
    """h_t = Σ_i a_ti ṽ_i with ṽ_i = v_i − (β/|N|) Σ_{j in N} v_j; keys unchanged.

    With negatives of queries, N = N(t), the weights' sum of 1 makes h_t = Σ_i a_ti v_i − (β/|N(t)|) Σ_{j in N(t)} v_j.
    With negatives of keys, N = N(i). The choice of N has no gradient. Memory is linear in the number of tokens: scores
    are formed a block of rows at a time.

    A query that may attend to m tokens has min(n_negatives, m − 1) negatives, so under causality the first query has
    none. Without causality, a prompt none of whose queries may attend to more than n_negatives tokens is refused, but
    for one that is hidden whole; `torch.compile`, CUDA graphs and `torch.func` do not look at the mask.

    Source: Ren & Liu 2024, the loss with negative samples, N(i) the k tokens with the lowest attention scores; which
    attention is meant, and all other constructions, are ours (docs/theory/negative.md).

    Args:
        q: queries, (..., n_heads, n_query, d).
        k: keys, (..., n_kv_heads, n_key, d).
        v: values, (..., n_kv_heads, n_key, d_v).
        mask: True where a query may attend.
        n_negatives: |N|, the paper's k; at least 1 and, without causality, less than the attendable keys.
        beta: β; a number or a tensor that broadcasts over (..., n_heads), over (..., n_kv_heads) for negatives of keys.
        construction: where negatives come from, see `iclens.attention.constructions.Construction`.
        selection: `"query"` or `"key"`: whose negatives.
        seed: for `random` and `noise`.
        vectors: the negatives of `learned`, (n_heads, n_negatives, d_v), or n_kv_heads for negatives of keys.
        scale: factor of the scores; d^(−1/2) when None.
        is_causal: the queries are the last tokens and see no later key.

    Raises:
        UserError: arguments that do not fit, β not finite, an unknown construction or selection, or too many negatives.
    """
    attending = Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal, self_aligned=construction == "dissimilar")
    negatives = _Negatives(
        n_negatives, finite("beta", beta, k if selection == "key" else q), construction, selection, seed, vectors
    )
    v = negatives.values(k, v, attending)
    out = scaled_dot_product(q, k, v, attending)
    offset = negatives.offset(q, k, v, attending)
    return out if offset is None else out - offset


@dataclass(frozen=True, eq=False)
class _Negatives:
    """One way to make negatives, applied; the fields are arguments of `negative_attention`."""

    n_negatives: int = 1
    beta: Strength = 0.1
    construction: str = "lowest"
    selection: str = "query"
    seed: int = 0
    vectors: Tensor | None = None

    def __post_init__(self) -> None:
        check_names(self.construction, self.selection)
        if self.n_negatives < 1:
            raise UserError(f"n_negatives={self.n_negatives} must be at least 1.")
        if (self.construction == "learned") != (self.vectors is not None):
            raise UserError("vectors must be given for the construction 'learned' and for no other.")

    @property
    def _of_tokens(self) -> dict[str, Any]:
        return {"n_negatives": self.n_negatives, "construction": self.construction, "seed": self.seed}

    def offset(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor | None:
        """β · mean of every query's negatives; None when negatives are those of keys, or for β = 0."""
        if self.selection == "key":
            return None
        mean = self._mean(q, k, repeat_heads(v, attending.n_heads), attending)
        return None if mean is None else times(self.beta, mean)

    def values(self, k: Tensor, v: Tensor, attending: Attending) -> Tensor:
        """Values with β · mean of every key's negatives subtracted; unchanged when negatives are those of queries."""
        if self.selection == "query":
            return v
        mean = self._mean(None, k, v, attending)
        return v if mean is None else v - times(self.beta, mean)

    def _mean(self, q: Tensor | None, k: Tensor, v: Tensor, attending: Attending) -> Tensor | None:
        if self.construction in FROM_TOKENS:
            check_count(self.n_negatives, attending)
        if is_zero(self.beta):
            return None
        if self.construction in FROM_TOKENS:
            if attending.n_key == 1:
                return None
            if q is None:
                return _mean_value(v, tokens_of_keys(k, attending, **self._of_tokens))
            return _mean_value(v, tokens_of_queries(q, k, attending, **self._of_tokens))
        return self._vector_mean(v, attending)

    def _vector_mean(self, v: Tensor, attending: Attending) -> Tensor:
        if self.vectors is not None:
            mean = self.vectors.to(v.dtype).mean(-2, keepdim=True)
        elif self.selection == "key":
            mean = noise(self.seed, 0, attending.n_key, self.n_negatives, v)
        else:
            mean = noise(self.seed, attending.first_position, attending.n_query, self.n_negatives, v)
        if self.selection == "query" and attending.mask is not None:
            # A query that attends to nothing has weights that sum to 0, not 1.
            allowed = attending.allowed(v.device)
            mean = mean * allowed.any(-1, keepdim=True)  # type: ignore[union-attr]
        return mean

    def naive(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:
        values = repeat_heads(v, attending.n_heads)
        weights = weights_naive(q, k, attending)
        if self.construction not in FROM_TOKENS:
            mean = self._vector_mean(v, attending)
            if self.selection == "query":
                return weights @ values - times(self.beta, mean)
            return scaled_dot_product_naive(q, k, v - times(self.beta, mean), attending)
        check_count(self.n_negatives, attending)
        member = indicator_naive(q, k, attending, selection=self.selection, **self._of_tokens).to(v.dtype)
        if self.selection == "query":
            return weights @ values - times(self.beta, member @ values)
        return weights @ repeat_heads(v - times(self.beta, member @ v), attending.n_heads)


def _mean_value(v: Tensor, chosen: Chosen) -> Tensor:
    """Mean of the chosen values, (..., heads, n_row, d_v)."""
    count = chosen.key.shape[-1]
    leading = torch.broadcast_shapes(v.shape[:-2], chosen.key.shape[:-2])
    rows = chosen.key.expand(*leading, *chosen.key.shape[-2:])
    # One flat table: its gradient is one `index_add`.
    table = v.expand(*leading, *v.shape[-2:]).reshape(-1, v.shape[-1])
    first = torch.arange(0, table.shape[0], v.shape[-2], device=v.device).view(*leading, 1, 1)
    found = table.index_select(0, (rows + first).reshape(-1)).view(*rows.shape, v.shape[-1])
    if count == 1:
        found = found.squeeze(-2)
        return found if chosen.share is None else found * chosen.share.to(v.dtype)
    if chosen.share is None:
        return found.mean(-2)
    return (found * chosen.share.unsqueeze(-1).to(v.dtype)).sum(-2)


@ATTENTIONS.register("negative")
class NegativeAttention(AttentionVariant):
    """`negative_attention` as a module.

    Args:
        shape: sizes of the heads.
        n_negatives: |N|; a call refuses it if some prompt has no more keys than that to attend to.
        beta: β, one number or one for each head (each key head for negatives of keys).
        learned: make β a parameter that starts there.
        construction: `lowest`, `hardest`, `dissimilar`, `random`, `noise` or `learned`.
        selection: `query` or `key`.
        seed: for `random` and `noise`.

    Raises:
        UserError: an option out of its range.
    """

    beta: Strength

    def __init__(
        self,
        shape: HeadShape,
        *,
        n_negatives: int = 1,
        beta: float | Sequence[float] | Tensor = 0.1,
        learned: bool = False,
        construction: str = "lowest",
        selection: str = "query",
        seed: int = 0,
    ) -> None:
        super().__init__(shape)
        heads = shape.n_heads if selection == "query" else shape.n_kv_heads
        self._beta = StrengthOption("beta", beta, learned=learned, n_heads=heads)
        self._beta.attach(self)
        self.n_negatives, self.construction, self.selection, self.seed = n_negatives, construction, selection, seed
        vectors = torch.empty(heads, max(n_negatives, 0), shape.d_v)
        self.vectors = nn.Parameter(vectors.normal_(std=0.02)) if construction == "learned" else None
        self._negatives()
        self.permutes = construction in ("lowest", "hardest", "learned")
        self.self_aligned = construction == "dissimilar" and selection == "query"

    def _negatives(self) -> _Negatives:
        return _Negatives(self.n_negatives, self.beta, self.construction, self.selection, self.seed, self.vectors)

    def options(self) -> dict[str, Any]:  # noqa: D102
        return {
            "n_negatives": self.n_negatives,
            "beta": self._beta.start,
            "learned": self._beta.learned,
            "construction": self.construction,
            "selection": self.selection,
            "seed": self.seed,
        }

    def neutral_options(self) -> dict[str, Any] | None:  # noqa: D102
        return {**self.options(), "beta": 0.0}

    def values(self, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return self._negatives().values(k, v, attending)

    def offset(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor | None:  # noqa: D102
        return self._negatives().offset(q, k, v, attending)

    def row_negatives(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor | None:  # noqa: D102
        return self._negatives().offset(q, k, v, attending)

    def naive(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return self._negatives().naive(q, k, v, attending)
