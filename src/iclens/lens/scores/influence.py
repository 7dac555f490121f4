"""Influence: how the margin changes with the weight of each demonstration in the training set of every dual model.

With M(w) the margin when demonstration i counts w_i times in every layer and head,

    influence_i = ∂M/∂w_i at a weight vector w,      shares_i = ∫₀¹ ∂M/∂w_i (t, …, t) dt

and Σ_i shares_i = M(1, …, 1) − M(0, …, 0) (Aumann and Shapley). One forward and one backward pass give the influence of
all demonstrations at once, split by layer, head and token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import doubled
from iclens.lens.read.capture import run
from iclens.lens.read.fused import fused_activations
from iclens.lens.read.margin import Readouts
from iclens.lens.read.padded import OfPrompts, PaddedTokens, unembedding_only
from iclens.lens.read.weighted import NEVER, Edges, Weighting, weighted

HALF = 0.5
"""The weight of all demonstrations at which their influence is taken: halfway between none and all of them."""


@dataclass(frozen=True)
class Influence(OfPrompts):
    """Derivatives of each prompt's margin with respect to training weights, at one weight vector.

    Attributes:
        by_head: ∂M/∂log w of each token, were its weight its own, through each head of each layer; zero for tokens
            without a weight and where a prompt was filled up. Nats.
        weights: the weight of every token, 1 for tokens without one.
        margin: M(w).
    """

    by_head: Float[Tensor, "*batch n_layers n_heads n"]
    weights: Float[Tensor, "*batch n"]
    margin: Float[Tensor, "*batch"]

    @property
    def by_weight(self) -> Float[Tensor, "*batch n_layers n_heads n"]:
        """∂M/∂w of each token through each head of each layer, in float64."""
        return self.by_head.double() / self.weights.double()[..., None, None, :]

    @property
    def by_token(self) -> Float[Tensor, "*batch n"]:
        """∂M/∂w of each token, summed over layers and heads, in float64."""
        return self.by_weight.sum((-3, -2))


def influence(
    lens_model: LensModel,
    tokens: PaddedTokens,
    readouts: Readouts,
    edges: Edges,
    weights: Float[Tensor, "batch n"],
) -> Influence:
    """Differentiate every prompt's margin with respect to the training weights of its tokens, in one backward pass.

    Args:
        lens_model: a causal model.
        tokens: the prompts; a prompt may stand there several times with other weights.
        readouts: what is read of their logits.
        edges: which attention edges carry the weights.
        weights: positive weights of the tokens, 1 for tokens without one.

    Raises:
        UserError: a weight that is not positive, or gradients are forbidden here.
    """
    if torch.is_inference_mode_enabled():
        raise UserError("influence needs gradients, which torch.inference_mode() forbids: use torch.no_grad() instead.")
    if not bool((weights > 0).all()):
        raise UserError("a training weight is not positive: influence is the derivative at positive weights.")
    how = Weighting(edges, doubled(weights).log())
    margins = _margins(lens_model, tokens, readouts, how, grad=True)
    with torch.enable_grad():
        margins.sum().backward()
    by_head = torch.stack([how.found[layer.attention_name].cpu() for layer in lens_model.anatomy.layers], 1)
    return Influence(by_head, weights.cpu(), doubled(margins.detach()).cpu())


def margins_at(
    lens_model: LensModel,
    tokens: PaddedTokens,
    readouts: Readouts,
    edges: Edges,
    weights: Float[Tensor, "batch n"],
) -> Float[Tensor, " batch"]:
    """Every prompt's margin M(w) at training weights of its tokens, zero among them; one forward pass."""
    logarithms = torch.where(weights > 0, doubled(weights).log(), NEVER)
    return doubled(_margins(lens_model, tokens, readouts, Weighting(edges, logarithms), grad=False)).cpu()


def _margins(lens_model: LensModel, tokens: PaddedTokens, readouts: Readouts, how: Weighting, *, grad: bool) -> Tensor:
    with (
        weighted(lens_model, how, grad=grad),
        unembedding_only(lens_model, readouts.positions),
        fused_activations(lens_model),
    ):
        return readouts.margin(run(lens_model, tokens.ids, position_ids=tokens.places))
