"""The influence of demonstrations on many queries that stand after the same ones, in one pass back and forth.

The queries of one prompt share its keys and values, as the branches of a tree share its stem. The derivative of the sum
of their margins with respect to the training weights of the demonstrations,

    ∂ Σ_q M_q / ∂w_i at a weight vector w,

takes one forward and one backward pass over the tree, whatever the number of queries: a pass over the demonstrations
and one over each query alone, instead of a whole one for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import doubled
from iclens.lens.model.session import Given, Plain, Seen
from iclens.lens.prompt.tokens import TokenizedPrompt, by_source
from iclens.lens.read.capture import run
from iclens.lens.read.fused import fused_activations
from iclens.lens.read.margin import Readout, Readouts
from iclens.lens.read.padded import unembedding_only
from iclens.lens.read.prefix_tree import PrefixTree, prefix_trees
from iclens.lens.read.shared_texts import trees_of
from iclens.lens.read.weighted import Edges, Weighting, weighted


@dataclass(frozen=True)
class SharedInfluence:
    """What the demonstrations of a prompt do to the margins of its queries.

    Attributes:
        by_demonstration: ∂ Σ_q M_q / ∂w_i, nats per unit of weight.
        margins: the margins at these weights.
        residual: how far the attention weights behind the derivatives are from those of the pass, the largest.
        tokens: how many were read, forth; as many were read back.
    """

    by_demonstration: Float[Tensor, " n_demonstrations"]
    margins: Float[Tensor, " n_queries"]
    residual: float
    tokens: int


def shared_influence(
    lens_model: LensModel,
    queries: Sequence[tuple[TokenizedPrompt, Readout]],
    weights: Float[Tensor, " n_demonstrations"],
    most_tokens: int,
) -> SharedInfluence:
    """Differentiate the sum of margins of queries after the same demonstrations, in trees of `most_tokens` at most.

    Args:
        lens_model: a causal model.
        queries: the prompts, which differ in their queries alone, and what is read of each.
        weights: positive weights of the demonstrations.
        most_tokens: how many go through the model at once; a longer text is a separate tree.

    Raises:
        UserError: a weight that is not positive, or another number of weights than demonstrations.
    """
    n = queries[0][0].n_demonstrations
    if weights.shape != (n,) or not bool((weights > 0).all()):
        raise UserError(f"influence needs a positive weight for each of {n} demonstrations: {weights.tolist()}.")
    rows = [(*one.input_ids.tolist(), *readout.forced) for one, readout in queries]
    trees = trees_of(lens_model, rows, most_tokens)
    if not trees:
        trees = [tree for row, i in zip(rows, range(len(rows)), strict=True) for tree in _alone(row, i)]
    total, margins = torch.zeros(n, dtype=torch.float64), torch.zeros(len(rows), dtype=torch.float64)
    residual = 0.0
    for tree in trees:
        found, read, off = _of_tree(lens_model, tree, [queries[i] for i in tree.numbers], weights)
        total += found
        margins[list(tree.numbers)] = read
        residual = max(residual, off)
    return SharedInfluence(total, margins, residual, sum(len(tree.ids) for tree in trees))


def _alone(row: Sequence[int], number: int) -> list[PrefixTree]:
    (tree,) = prefix_trees([row], len(row))
    return [PrefixTree((number,), tree.ids, tree.parents, tree.paths)]


def _of_tree(
    lens_model: LensModel, tree: PrefixTree, queries: Sequence[tuple[TokenizedPrompt, Readout]], weights: Tensor
) -> tuple[Tensor, Tensor, float]:
    """Derivatives of the sum of margins, the margins, and the residual, of the texts of one tree."""
    device, size = lens_model.device, len(tree.ids)
    groups = torch.full((1, size), -1)
    for path, (one, _) in zip(tree.paths, queries, strict=True):
        groups[0, list(path[: one.n_tokens])] = one.groups
    # −1 of tokens in no demonstration finds the 1 in the last place.
    of_tokens = torch.cat([weights.double(), torch.ones(1).double()])[groups % (len(weights) + 1)]
    readouts = Readouts.of([readout for _, readout in queries], [one.n_tokens - 1 for one, _ in queries], device)
    nodes = torch.tensor(
        [[path[place] for place in own] for path, own in zip(tree.paths, readouts.positions.tolist(), strict=True)]
    )
    places, ids = tree.places[None].to(device), torch.tensor([tree.ids], device=device)
    how = Weighting(Edges(groups.to(device), torch.zeros(1, dtype=torch.long, device=device)), of_tokens.log())
    known: dict[Seen, Given] = {}

    def seeing(seen: Seen) -> Seen:
        if seen not in known:
            mask = tree.before(slice(0, size)).to(device)
            known[seen] = Given(
                (mask if isinstance(seen, Plain) else mask & seen.at(places[0], slice(0, size)))[None, None]
            )
        return known[seen]

    with (
        weighted(lens_model, how, seeing=seeing, places=places),
        unembedding_only(lens_model, nodes.flatten()[None].to(device)),
        fused_activations(lens_model),
    ):
        logits = run(lens_model, ids, torch.ones_like(ids), position_ids=places)[0].unflatten(0, nodes.shape)
        margins = readouts.margin(logits)
        with torch.enable_grad():
            margins.sum().backward()
    by_token = sum(one.cpu().double().sum(1) for one in how.found.values()) / of_tokens
    residual = max(float(one.max()) for one in how.off.values())
    return by_source(by_token, groups, len(weights))[0, :-1], doubled(margins.detach()).cpu(), residual
