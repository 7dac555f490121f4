"""A stack of Transformer layers read as a sequence of duals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.dual.demonstrations import Groups
from iclens.dual.held import HeldMap
from iclens.dual.layer import LayerDual, positions
from iclens.dual.layer_weights import LayerWeights
from iclens.dual.norms import Norm
from iclens.dual.training_weights import TrainingWeights, of_tokens
from iclens.errors import UserError


class Step(NamedTuple):
    """The gradient step of one layer's dual, at every token, each (..., n, d_model).

    Attributes:
        before: W_0 φ(q) + b, the dual's prediction before the step.
        after: Ŵ φ(q) + b, its prediction after the step: the layer's output, which the next layer takes in.
    """

    before: Float[Tensor, "*batch n d_model"]
    after: Float[Tensor, "*batch n d_model"]


class Paths(NamedTuple):
    """A token's final representation as a sum over the embeddings that it came from.

    Attributes:
        contributions: the part of each demonstration's embeddings, (..., n_query, n_demonstrations, d_model).
        initial: the part of the embeddings of all other tokens, the query's own among them, (..., n_query, d_model).
        offset: the part of no embedding at all, from biases, (..., n_query, d_model).
    """

    contributions: Float[Tensor, "*batch n_query n_demonstrations d_model"]
    initial: Float[Tensor, "*batch n_query d_model"]
    offset: Float[Tensor, "*batch n_query d_model"]


@dataclass(frozen=True, eq=False)
class StackWeights:
    """The weights of a stack of layers.

    Attributes:
        layers: one record for each layer, all of the same d_model.
        final_norm: applied to the last layer's output, or None.
    """

    layers: tuple[LayerWeights, ...]
    final_norm: Norm | None = None

    def __post_init__(self) -> None:
        if not self.layers:
            raise UserError("a stack needs at least one layer.")
        widths = {layer.d_model for layer in self.layers}
        if len(widths) > 1:
            raise UserError(f"the layers of a stack must share one d_model; found {sorted(widths)}.")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Float[Tensor, "*batch n d_model"]:
        """Return the plain stack: the reference for its duals.

        Args:
            x: embeddings, (..., n, d_model).
            mask: bool, (..., n, n), True where a token (row) may attend to another (column), in every layer.
        """
        for layer in self.layers:
            x = layer.forward(x, mask)
        return x if self.final_norm is None else self.final_norm(x)


@dataclass(frozen=True, eq=False)
class StackDual:
    """A stack of layers as a sequence of dual models.

    Layer ℓ's dual takes its training inputs, targets and test inputs from what the dual of layer ℓ−1 predicts after its
    gradient step; the embeddings open the sequence. Every token is a separate test input, with its own D, W_0 and
    held map. Under a causal mask, or whenever demonstrations do not see the query, the demonstrations' representations,
    and so every training set, do not depend on the query.

    With attention weights, norms and gates held at their values the whole stack is affine in the embeddings, and
    `paths` splits the output over them exactly.

    Source: Ren & Liu 2024, Fig. 5, made exact; derived in docs/theory/stack.md.

    Attributes:
        weights: the stack.
        groups: which tokens are demonstrations; leading axes broadcast against those of the embeddings.
        mask: bool, (..., n, n), True where a token (row) may attend to another (column), or None.
        layers: the dual of each layer, at all tokens.
        training_weights: how often each demonstration counts in every layer's duals of each token,
            (..., n, n_demonstrations); None for once.
    """

    weights: StackWeights
    groups: Groups
    mask: Bool[Tensor, "*batch_m _ n"] | None
    layers: tuple[LayerDual, ...]
    training_weights: Float[Tensor, "*batch_w n n_demonstrations"] | None = None

    @staticmethod
    def from_stack(
        weights: StackWeights,
        x: Tensor,
        demonstrations: int | Tensor,
        mask: Tensor | None = None,
        *,
        training_weights: TrainingWeights | None = None,
    ) -> StackDual:
        """Return the duals of a stack, each fed with the predictions of the one before.

        Args:
            weights: the stack.
            x: embeddings, (..., n, d_model).
            demonstrations: an int (the first N tokens), a bool mask over the tokens, or group ids; leading axes
                broadcast against those of `x`.
            mask: bool, (..., n, n), True where a token (row) may attend to another (column), in every layer.
            training_weights: in every layer, as in `LayerDual.from_layer`.

        Raises:
            UserError: what `LayerDual.from_layer` refuses.
        """
        if x.ndim < 2:
            raise UserError(f"x has shape {tuple(x.shape)}; a stack needs (..., n, {weights.layers[0].d_model}).")
        groups = Groups.of(demonstrations, x.shape[-2], x.device)
        counted = None if training_weights is None else of_tokens(training_weights, groups, x)
        duals = []
        for layer in weights.layers:
            duals.append(LayerDual.from_layer(layer, x, groups.ids, mask=mask, training_weights=counted))
            x = duals[-1].predict()
        return StackDual(weights, groups, mask, tuple(duals), counted)

    @property
    def n_demonstrations(self) -> int:
        """Number of demonstrations."""
        return self.groups.n_demonstrations

    @cached_property
    def _last(self) -> Tensor:
        return self.layers[-1].predict()

    def states(self) -> tuple[Float[Tensor, "*batch n d_model"], ...]:
        """Every token's representation: the embeddings, then the output of each layer's dual."""
        return (*(layer.x for layer in self.layers), self._last)

    def steps(self) -> tuple[Step, ...]:
        """Every token's representation before and after the gradient step of each layer's dual."""
        after = self.states()[1:]
        return tuple(Step(layer.before(), state) for layer, state in zip(self.layers, after, strict=True))

    def predict(self) -> Float[Tensor, "*batch n d_model"]:
        """Return the output of the stack at every token, with its final norm."""
        return self._final()(self._last)

    def without(
        self, i: int | Iterable[int], queries: int | Sequence[int] | Tensor
    ) -> Float[Tensor, "*batch n_query d_model"]:
        """The query tokens' exact outputs when none of their duals, in any layer, was trained on demonstration `i`.

        The query tokens are run again through every layer; all other tokens keep their representations, as the keys and
        values of a prompt that was read once.

        Args:
            i: a demonstration or several.
            queries: positions of the query tokens.

        Raises:
            UserError: `i` is no demonstration, a position is outside the tokens, or a query has nothing left to attend
                to.
        """
        left_out = [i] if isinstance(i, int) else list(i)
        first = self.layers[0].x
        index = positions(queries, first.shape[-2], first.device)
        rows = first[..., index, :]
        for layer in self.layers:
            x = layer.x
            leading = torch.broadcast_shapes(x.shape[:-2], rows.shape[:-2])
            x = x.expand(*leading, -1, -1).index_copy(-2, index, rows.expand(*leading, -1, -1))
            how = {"training_weights": self.training_weights}
            rows = LayerDual.from_layer(layer.weights, x, self.groups.ids, index, self.mask, **how).without(left_out)
        return rows if self.weights.final_norm is None else self.weights.final_norm(rows)

    def paths(self, queries: int | Sequence[int] | Tensor | None = None) -> Paths:
        """Return the path decomposition by demonstration; its parts sum to `predict()` at the queries.

        Every embedding is pushed through the held stack, along all paths of attention and residual at once.

        Args:
            queries: positions that are read out; None for all tokens.
        """
        n_demonstrations = self.n_demonstrations
        slots = torch.where(self.groups.ids < 0, n_demonstrations, self.groups.ids)
        parts, offset = self._push(slots, n_demonstrations + 1, queries)
        return Paths(parts[..., :-1, :], parts[..., -1, :], offset)

    def token_paths(self, queries: int | Sequence[int] | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The path decomposition by single token: parts (..., n_query, n, d_model), and the offset as in `Paths`."""
        n = self.layers[0].x.shape[-2]
        return self._push(torch.arange(n, device=self.layers[0].x.device), n, queries)

    def _push(self, slots: Tensor, n_slots: int, queries: int | Sequence[int] | Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.layers[0].x
        member = torch.nn.functional.one_hot(slots, n_slots).to(x.dtype)
        parts = member.unsqueeze(-1) * x.unsqueeze(-2)
        offset = torch.zeros_like(x)
        for layer in self.layers:
            parts, offset = layer.held_linear(parts), layer.held_affine(offset)
        final = self._final()
        parts, offset = final.linear(parts), final(offset)
        if queries is None:
            return parts, offset
        index = positions(queries, x.shape[-2], x.device)
        return parts[..., index, :, :], offset[..., index, :]

    def _final(self) -> HeldMap:
        norm = self.weights.final_norm
        return HeldMap.identity(self._last) if norm is None else norm.held(self._last)
