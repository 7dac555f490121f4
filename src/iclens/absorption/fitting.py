"""Fit changes of matrices, layer by layer in one pass over the queries alone, so that these get the prompt's states.

At every changed map the pass stops for a regression, and continues with the changed map: later layers are fitted on the
states that they will really see. With m the family's factor of branches, and what belongs to the pass with the prompt
marked by *:

    W_O:               o ≈ o* + (x* − x)/m           so that the stream after attention becomes z*
    MLP's first maps:  u ≈ u*                        so that their outputs become W n(z*)
    MLP's last map:    f ≈ (x*' − x)/m − o           so that the stream behind the layer becomes x*'

where x, x' are the stream before and behind a layer, o and f what the branches add (where a norm ends a branch, its map
is fitted as `normed` says). The second line is the patch of
2510.08734 (and of 2507.16003, of one token); the offset z − z0, which these leave, is in the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.absorption.adapter import Adapter
from iclens.absorption.low_rank import LowRank, best_maps
from iclens.absorption.normed import HeldNorm, norm_behind
from iclens.absorption.pairing import Pairing
from iclens.absorption.sites import ATTENTION, MLP_IN, Site
from iclens.absorption.states import Hook, States, hooked, rows, run_tree, stream
from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import doubled

RIDGE = 1.0
"""λ, in tokens of mean size."""


@torch.no_grad()
def fit(
    lens_model: LensModel,
    sites: Sequence[Site],
    states: States,
    pairing: Pairing,
    rank: int,
    ridge: float = RIDGE,
    advance: Callable[[int], None] = lambda done: None,
) -> Adapter:
    """Fit the maps, each in closed form.

    Args:
        lens_model: the model.
        sites: the maps to change, in the order of the layers.
        states: of the paired tokens after the prompt.
        pairing: which tokens these are.
        rank: of every change; more than the widths allow changes nothing further.
        ridge: λ, in tokens of mean size.
        advance: is called with the number of maps that are fitted.
    """
    here, m = pairing.here, lens_model.family.branch_scale
    layers, maps = lens_model.anatomy.layers, dict[str, LowRank]()
    # Of the layer that runs: the stream before it, and what its attention adds.
    x: Tensor = torch.empty(0)
    o: Tensor = torch.empty(0)

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal x
        x = rows(stream(args, kwargs), here)

    def attended(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal o
        o = rows(output, here)

    def wanted(site: Site) -> Float[Tensor, "n _"]:
        if site.target == MLP_IN:
            return states.outputs[site.name]
        if site.target == ATTENTION:
            return states.attention[site.layer] + (states.entering[site.layer] - x) / m
        return (states.leaving[site.layer] - x) / m - o

    def branch(site: Site) -> Float[Tensor, "n _"]:
        o = states.attention[site.layer]
        return o if site.target == ATTENTION else (states.leaving[site.layer] - states.entering[site.layer]) / m - o

    def fitted(site: Site) -> Hook:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            inside = inputs[0]
            x_here, now, weights = doubled(rows(inside, here)), rows(output, here), pairing.weights.to(inside.device)
            norm = norm_behind(layers[site.layer], site.target)
            if norm is None:
                one = best_maps(x_here, doubled(wanted(site)) - doubled(now), weights, ridge).of_rank(rank)
            else:
                held = HeldNorm.of(norm, states.outputs[site.name], branch(site))
                best = best_maps(x_here, held.lacking(now, wanted(site)), held.weights(weights), ridge)
                one = held.before(best.of_rank(rank))
            maps[site.name] = one
            advance(len(maps))
            return output + one(inside)

        return hook

    after = [(site.module, fitted(site)) for site in sites]
    # Behind the fits, so that what is seen is changed already.
    ends = [layer.norm_after_attention or layer.output for layer in layers]
    after += [(end, attended) for end in ends if end is not None]
    with hooked(after, [(layer.module, enter) for layer in layers]):
        run_tree(lens_model, pairing.alone)
    return Adapter.of(lens_model, rank, sites, maps)
