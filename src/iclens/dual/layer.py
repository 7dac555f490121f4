"""A Transformer layer read as a dual with an untrained offset."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.dual.demonstrations import Groups
from iclens.dual.feed_forward import FeedForward
from iclens.dual.heads import HeadsDual
from iclens.dual.held import HeldMap
from iclens.dual.layer_weights import LayerWeights
from iclens.dual.model import DualModel
from iclens.dual.training_weights import TrainingWeights, of_tokens
from iclens.errors import UserError


@dataclass(frozen=True, eq=False)
class LayerDual:
    """One Transformer layer at given query tokens, as a dual model f(x) = W φ(x) + b with an untrained offset b.

    Everything after attention (residual, norms, feed-forward) equals, at the query, one affine map z ↦ z A + c, with
    the norms' scales and the feed-forward's gates held at the values that they take there. So

        output = [(x_q + b_O) A + c] + Σ_h (W_0^h φ(q^h)) A + Σ_i Σ_h (a_i^h v_i^h W_O^h) A
               = offset()            + initial()            + Σ_i contributions()_i:

    the targets of the dual become v_i^h W_O^h A, and W_0 becomes Aᵀ W_0. Exact, and self-referential: A depends on the
    output of attention at that query, training included. It says how the output is put together, not what the layer
    would give without a demonstration; `without` says that.

    Source: Ren & Liu 2024, Fig. 4, with their W_F and b_F inside A and c; derived in docs/theory/transformer-layer.md.

    Attributes:
        weights: the layer.
        x: tokens that enter it, (..., n, d_model).
        queries: positions of the query tokens, (n_query,).
        heads: the dual of its attention with output projection.
    """

    weights: LayerWeights
    x: Float[Tensor, "*batch n d_model"]
    queries: Int[Tensor, " n_query"]
    heads: HeadsDual

    @staticmethod
    def from_layer(
        weights: LayerWeights,
        x: Tensor,
        demonstrations: int | Tensor,
        queries: int | Sequence[int] | Tensor | None = None,
        mask: Tensor | None = None,
        *,
        training_weights: TrainingWeights | None = None,
    ) -> LayerDual:
        """Return the dual of a layer.

        Args:
            weights: the layer.
            x: tokens that enter it, (..., n, d_model).
            demonstrations: an int (the first N tokens), a bool mask over the tokens, or group ids, as in
                `DualModel.from_attention`; leading axes broadcast against those of `x`.
            queries: positions that are read out, negative ones counted from the end; None for all.
            mask: bool, (..., n, n), True where a token (row) may attend to another (column); None for everywhere.
            training_weights: how often each demonstration counts in the duals of all tokens outside of it, one number
                or (n_demonstrations,); or in the dual of each token, (..., n, n_demonstrations). None for once.

        Raises:
            UserError: shapes that do not fit, positions outside the tokens, or what `DualModel.from_attention` refuses.
        """
        if x.ndim < 2 or x.shape[-1] != weights.d_model:
            raise UserError(f"x has shape {tuple(x.shape)}; the layer needs (..., n, {weights.d_model}).")
        if not bool(x.isfinite().all()):
            raise UserError(f"x holds a non-finite number at index {(~x.isfinite()).nonzero()[0].tolist()}.")
        n = x.shape[-2]
        index = positions(queries, n, x.device)
        if mask is not None:
            if mask.ndim < 2 or mask.shape[-1] != n or mask.shape[-2] not in (1, n):
                raise UserError(f"mask has shape {tuple(mask.shape)}; its last two axes must be ({n}, {n}).")
            mask = mask.expand(*mask.shape[:-2], n, n)[..., index, :].unsqueeze(-3)
        if training_weights is not None:
            groups = Groups.of(demonstrations, n, x.device)
            training_weights = of_tokens(training_weights, groups, x)[..., index, :].unsqueeze(-3)
        if isinstance(demonstrations, Tensor) and demonstrations.ndim > 1:
            demonstrations = demonstrations.unsqueeze(-2)
        z = weights.attention_inputs(x)
        heads = HeadsDual.from_attention(
            weights.queries(z[..., index, :], index),
            weights.keys(z),
            weights.values(z),
            weights.W_O,
            demonstrations,
            mask,
            weights.scale,
            b_O=weights.b_O,
            training_weights=training_weights,
        )
        return LayerDual(weights, x, index, heads)

    @property
    def n_demonstrations(self) -> int:
        """How many demonstrations the layer's heads are trained on, numbered from 0."""
        return self.heads.dual.n_demonstrations

    @property
    def x_query(self) -> Float[Tensor, "*batch n_query d_model"]:
        """The query tokens as they enter the layer."""
        return self.x[..., self.queries, :]

    @cached_property
    def after(self) -> HeldMap:
        """The affine map z ↦ z A + c that the rest of the layer equals at each query."""
        return self.weights.held_after_attention(self.x_query, self.heads.predict())

    def predict(self) -> Float[Tensor, "*batch n_query d_model"]:
        """offset() + initial() + Σ contributions(): the layer's output, by way of the held map."""
        return self.after(self.x_query + self.heads.predict())

    def offset(self) -> Float[Tensor, "*batch n_query d_model"]:
        """Return the untrained offset (x_q + b_O) A + c: residual stream and biases."""
        x_query = self.x_query
        return self.after(x_query if self.weights.b_O is None else x_query + self.weights.b_O)

    def initial(self, *, by_head: bool = False) -> Tensor:
        """W_0's part, from the tokens that are not demonstrations.

        Returns:
            (..., n_query, d_model); by head (..., n_query, n_heads, d_model).
        """
        if by_head:
            return self.after.linear(self.heads.initial(by_head=True))
        return self.after.linear(self.heads.initial().unsqueeze(-2)).squeeze(-2)

    def contributions(self, *, by_head: bool = False) -> Tensor:
        """Each demonstration's part of the gradient step, in the layer's output.

        Returns:
            (..., n_query, n_demonstrations, d_model); by head (..., n_query, n_heads, n_demonstrations, d_model).
        """
        parts = self.heads.contributions(by_head=by_head)
        if not by_head:
            return self.after.linear(parts)
        return self.after.linear(parts.flatten(-3, -2)).unflatten(-2, parts.shape[-3:-1])

    def before(self) -> Float[Tensor, "*batch n_query d_model"]:
        """The dual's prediction at the query before the gradient step, W_0 φ(q) + b, with A and c as after it."""
        return self.offset() + self.initial()

    def without(self, i: int | Iterable[int]) -> Float[Tensor, "*batch n_query d_model"]:
        """Return the layer's exact output when its duals were never trained on demonstration `i` (or on several).

        Every D is recomputed, and norms and gates are evaluated again: nothing is held. Hence it is not
        predict() − contributions()_i, and the effects of several demonstrations do not add up.

        Raises:
            UserError: `i` is no demonstration, or a query would have nothing left to attend to.
        """
        return self.weights.after_attention(self.x_query, self.heads.without(i))

    def targets(self) -> Float[Tensor, "*batch n_heads n_query n_key d_model"]:
        """Return the dual's targets v_i^h W_O^h A, for every head, query and token."""
        values = self.heads.absorbed.v.unsqueeze(-4)
        # One row of vectors for each query: heads and keys share its held map.
        shape = torch.broadcast_shapes(values.shape[:-4], self.x.shape[:-2])
        values = values.expand(*shape, len(self.queries), self.weights.n_heads, -1, -1)
        mapped = self.after.linear(values.flatten(-3, -2)).unflatten(-2, values.shape[-3:-1])
        return mapped.movedim(-3, -4)

    def duals(self) -> DualModel:
        """The layer's trained part as plain `DualModel`s, one for each head and query (the last two leading axes).

        Training inputs are the keys, targets are `targets()`; the queries' axis has length 1. Their predictions sum
        over the heads to `predict()` − `offset()`, and loss, alignment and ‖Ŵ‖_F are theirs to give. The queries sit on
        a leading axis because each has its own A.
        """
        dual, counted = self.heads.dual, self.heads.dual.training_weights
        ids = dual.groups.ids if dual.groups.ids.ndim == 1 else dual.groups.ids.unsqueeze(-2)
        return dataclasses.replace(
            dual,
            q=dual.q.unsqueeze(-2),
            k=dual.k.unsqueeze(-3),
            v=self.targets(),
            groups=Groups(ids, dual.n_demonstrations),
            mask=None if dual.mask is None else dual.mask.unsqueeze(-2),
            training_weights=None if counted is None else counted.unsqueeze(-2),
        )

    def held_linear(
        self, parts: Float[Tensor, "*batch n n_parts d_model"]
    ) -> Float[Tensor, "*batch n n_parts d_model"]:
        """Return what the held layer makes of parts of the tokens that enter it: the linear part alone, at every token.

        Attention weights, norms and gates are held, so the layer is affine in its input tokens. Needs the dual at all
        tokens (`queries` None).
        """
        weights = self.weights
        values = weights.held_attention_inputs(self.x).linear(parts).unsqueeze(-4) @ weights.W_V.unsqueeze(-3)
        values = values.repeat_interleave(weights.n_heads // values.shape[-4], -4)
        attended = self.heads.dual.coefficients @ values.flatten(-2)
        attended = attended.unflatten(-1, values.shape[-2:])
        return self.after.linear(parts + torch.einsum("...htpv,hvm->...tpm", attended, weights.W_O))

    def held_affine(self, x: Float[Tensor, "*batch n d_model"]) -> Float[Tensor, "*batch n d_model"]:
        """What the held layer makes of other tokens `x`, biases included; of the dual's own tokens, `predict()`."""
        weights = self.weights
        values = weights.values(weights.held_attention_inputs(self.x)(x))
        attended = self.heads.dual.coefficients @ values.repeat_interleave(weights.n_heads // values.shape[-3], -3)
        projected = torch.einsum("...htv,hvm->...tm", attended, weights.W_O)
        return self.after(x + (projected if weights.b_O is None else projected + weights.b_O))

    def rank_bound(self) -> Int[Tensor, "*batch n_query"]:
        """Largest rank W_F can have at each query: min(d_model, units whose gate is not 0).

        Without the residual, the targets v_i^h W_O^h W_F lie in a space of that dimension.

        Raises:
            UserError: the layer has no feed-forward block.
        """
        block, z = self._feed_forward()
        return block.rank_bound(z)

    def _feed_forward(self) -> tuple[FeedForward, Tensor]:
        weights = self.weights
        if weights.feed_forward is None:
            raise UserError("this layer has no feed-forward block.")
        h = self.x_query + self.heads.predict()
        norm = weights.norm_2 if weights.placement == "pre" else weights.norm_1
        return weights.feed_forward, h if norm is None else norm(h)


def positions(queries: int | Sequence[int] | Tensor | None, n: int, device: torch.device) -> Tensor:
    """`queries` as a tensor of indices from 0.

    Raises:
        UserError: a position outside the n tokens, or none at all.
    """
    if queries is None:
        return torch.arange(n, device=device)
    chosen = queries.tolist() if isinstance(queries, Tensor) else queries
    positions = [chosen] if isinstance(chosen, int) else list(chosen)
    for position in positions:
        if not -n <= position < n:
            raise UserError(f"query position {position} is outside the {n} tokens.")
    if not positions:
        raise UserError("no query position is given: name at least one, or None for all.")
    return torch.tensor([position % n for position in positions], device=device)
