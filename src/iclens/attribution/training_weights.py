"""The margin, and its derivatives, when demonstrations count as one chooses: passes at several weights side by side."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.lens.lens import Lens
from iclens.lens.prompt.tokens import by_source
from iclens.lens.read.margin import Readouts
from iclens.lens.read.padded import PaddedTokens
from iclens.lens.read.weighted import Edges
from iclens.lens.scores.influence import influence, margins_at


def weighted_margins(lens: Lens, weights: Float[Tensor, "n_vectors n_demonstrations"]) -> Float[Tensor, " n_vectors"]:
    """M(w) for each vector w of weights ≥ 0, on the edges from all later tokens; a forward pass each."""
    n_tokens, found = len(lens.input_ids), []
    for some in weights.split(max(1, lens.passes.most_tokens // n_tokens)):
        tokens, edges, readouts = _side_by_side(lens, len(some))
        lens.passes.forward_passes += len(some)
        found.append(margins_at(lens.model, tokens, readouts, edges, _of_tokens(lens, some)))
    return torch.cat(found)


def influences_at(
    lens: Lens, weights: Float[Tensor, "n_vectors n_demonstrations"]
) -> Float[Tensor, "n_vectors n_demonstrations"]:
    """∂M/∂w_i at each vector w of weights > 0, on the edges from all later tokens; a forward and a backward pass each.

    What is explained is known to the lens beforehand, or costs one pass more.
    """
    n_tokens, found = len(lens.input_ids), []
    for some in weights.split(max(1, lens.passes.most_tokens // n_tokens)):
        tokens, edges, readouts = _side_by_side(lens, len(some))
        lens.passes.forward_passes += len(some)
        lens.passes.backward_passes += len(some)
        taken = influence(lens.model, tokens, readouts, edges, _of_tokens(lens, some))
        found.append(by_source(taken.by_token.cpu(), edges.groups.cpu(), lens.n_demonstrations)[:, :-1])
    return torch.cat(found)


def _side_by_side(lens: Lens, count: int) -> tuple[PaddedTokens, Edges, Readouts]:
    rows = [lens.input_ids] * count
    tokens = PaddedTokens.of(rows, [lens.query_start] * count, lens.model.device)
    groups = lens.groups.expand(count, -1).to(lens.model.device)
    return tokens, Edges(groups, torch.zeros_like(tokens.starts)), lens.readouts[torch.zeros(count, dtype=torch.long)]


def _of_tokens(lens: Lens, weights: Tensor) -> Tensor:
    # −1 of tokens in no demonstration finds the 1 in the last place.
    return nn.functional.pad(weights.double(), (0, 1), value=1.0)[:, lens.groups].to(lens.model.device)
