"""Influence: how the margin changes with the weight of each demonstration in the training set of every dual model.

With M(w) the margin when demonstration i counts w_i times in every layer and head,

    influence_i = ∂M/∂w_i at a weight vector w,      shares_i = ∫₀¹ ∂M/∂w_i (t, …, t) dt

and Σ_i shares_i = M(1, …, 1) − M(0, …, 0) (Aumann and Shapley). One forward and one backward pass give the influence of
all demonstrations at once, split by layer, head and token.

Which weights: all demonstrations weigh half, halfway from the prompt to one without them. A model that is certain of
its answer at half weight shows nothing there; its answer is won at much smaller weights. So where half weight shows
little of what the demonstrations change, smaller weights are tried until half of the change is gone, and the influence
is taken where a relative change of the weights moves the margin most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
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

CERTAIN = 0.25
"""A model counts as certain at half weight when Σ_i |∂M/∂w_i| is below this part of what all demonstrations change."""

_SMALLER = 16.0
"""Each weight that is tried over the next one."""

_MOST_SMALLER = 4
"""How many are tried: the smallest is 8e-6, which no score of an attention in float32 can tell from zero."""


@dataclass(frozen=True)
class Influence(OfPrompts):
    """Derivatives of each prompt's margin with respect to training weights, at one weight vector.

    Attributes:
        by_head: ∂M/∂log w of each token, were its weight its own, through each head of each layer; zero for tokens
            without a weight and where a prompt was filled up. Nats.
        weights: the weight of every token, 1 for tokens without one.
        margin: M(w).
        residual: how far the attention weights behind `by_head` are from those of the pass, the largest of any layer.
        unit: the weight by which `by_weight` and `by_token` count: 1, or twice the weight of all demonstrations where
            `where_it_shows` took the influence of a certain answer, so that this weight counts as half.
    """

    by_head: Float[Tensor, "*batch n_layers n_heads n"]
    weights: Float[Tensor, "*batch n"]
    margin: Float[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]
    unit: Float[Tensor, "*batch"]

    @property
    def by_weight(self) -> Float[Tensor, "*batch n_layers n_heads n"]:
        """∂M/∂w of each token through each head of each layer, per `unit`, in float64."""
        return self.by_head.double() * (self.unit[..., None] / self.weights.double())[..., None, None, :]

    @property
    def by_token(self) -> Float[Tensor, "*batch n"]:
        """∂M/∂w of each token, per `unit`, summed over layers and heads, in float64."""
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
    margins = readouts.margin(_logits(lens_model, tokens, readouts, how, grad=True))
    with torch.enable_grad():
        margins.sum().backward()
    names = [layer.attention_name for layer in lens_model.anatomy.layers]
    by_head = torch.stack([how.found[name].cpu() for name in names], 1)
    residual = torch.stack([how.off[name].cpu() for name in names]).amax(0)
    margins = doubled(margins.detach()).cpu()
    return Influence(by_head, weights.cpu(), margins, residual.double(), torch.ones_like(margins))


def where_it_shows(
    take: Callable[[Float[Tensor, " some"], Int[Tensor, " some"]], Influence],
    margin: Float[Tensor, " batch"],
    without: Callable[[], Float[Tensor, " batch"]],
    strength: Callable[[Influence, Int[Tensor, " some"]], Float[Tensor, " some"]],
    most: Float[Tensor, " batch"],
) -> Influence:
    """Take every prompt's influence where all demonstrations weigh half, or less where that shows nothing.

    Where they weigh t, it is 2t ∂M/∂w: the weight where it is taken counts as half.

    Args:
        take: the influence on some prompts, by their numbers, when all demonstrations of each have one weight.
        margin: M(1, …, 1).
        without: computes M(0, …, 0); called only when a prompt's influence at half weight is small beside `most`.
        strength: Σ_i |∂M/∂log w_i| over the demonstrations of these prompts.
        most: what is taken for their whole effect where no pass has told it: |M(1, …, 1)| of a logit difference, ∞ of a
            log-probability, which is near zero when it is certain.
    """
    batch = len(margin)
    every = torch.arange(batch)
    best = take(torch.full((batch,), HALF, dtype=torch.float64), every)
    shown = strength(best, every)
    unsure = shown < HALF * CERTAIN * most
    if not bool(unsure.any()):
        return best
    none = without()
    unsure &= shown < HALF * CERTAIN * (margin - none).abs()
    weight = HALF
    for _ in range(_MOST_SMALLER):
        chosen = unsure.nonzero().flatten()
        if not len(chosen):
            break
        weight /= _SMALLER
        found = take(torch.full((len(chosen),), weight, dtype=torch.float64), chosen)
        now = strength(found, chosen)
        better = now > shown[chosen]
        found = replace(found, unit=torch.full_like(found.unit, weight / HALF))
        best = best.replaced(chosen[better], found[better])
        shown[chosen] = torch.maximum(now, shown[chosen])
        left = (found.margin - none[chosen]).abs()
        unsure[chosen] = left > (margin - none)[chosen].abs() / 2
    return best


def logits_at(
    lens_model: LensModel,
    tokens: PaddedTokens,
    readouts: Readouts,
    edges: Edges,
    weights: Float[Tensor, "batch n"],
) -> Float[Tensor, "batch n_read vocab"]:
    """Return what every prompt's readouts read at training weights of its tokens, zero among them; one forward pass."""
    logarithms = torch.where(weights > 0, doubled(weights).log(), NEVER)
    return _logits(lens_model, tokens, readouts, Weighting(edges, logarithms), grad=False)


def _logits(lens_model: LensModel, tokens: PaddedTokens, readouts: Readouts, how: Weighting, *, grad: bool) -> Tensor:
    with (
        weighted(lens_model, how, grad=grad),
        unembedding_only(lens_model, readouts.positions),
        fused_activations(lens_model),
    ):
        return run(lens_model, tokens.ids, position_ids=tokens.places)
