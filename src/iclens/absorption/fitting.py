"""Fit changes of matrices, layer by layer in one pass over the queries alone, so that these get the prompt's states.

At every changed map the pass stops for a regression, and goes on with the changed map: later layers are fitted on the
states that they will really see. With m the family's factor of branches, and what belongs to the pass with the prompt
marked by *:

    W_O:               o ≈ o* + (x* − x)/m           so that the stream after attention becomes z*
    MLP's first maps:  u ≈ u*                        so that their outputs become W n(z*)
    MLP's last map:    f ≈ (x*' − x)/m − o           so that the stream behind the layer becomes x*'

where x, x' are the stream before and behind a layer, o and f what the branches add. The second line is the patch of
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
from iclens.absorption.pairing import Pairing
from iclens.absorption.sites import ATTENTION, MLP_IN, Site
from iclens.absorption.states import Hook, States, hooked, rows, run_tree, stream
from iclens.lens.model.loading import LensModel

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
        states: of the paired tokens behind the prompt.
        pairing: which tokens these are.
        rank: of every change; more than the widths allow changes nothing further.
        ridge: λ, in tokens of mean size.
        advance: is called with the number of maps that are fitted.
    """
    here, m = pairing.here, lens_model.family.branch_scale
    maps: dict[str, LowRank] = {}
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

    def fitted(site: Site) -> Hook:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            inside = inputs[0]
            lacking = wanted(site).double() - rows(output, here).double()
            best = best_maps(rows(inside, here), lacking, pairing.weights.to(output.device), ridge)
            maps[site.name] = one = best.of_rank(rank)
            advance(len(maps))
            return output + one(inside)

        return hook

    after = [(site.module, fitted(site)) for site in sites]
    layers = lens_model.anatomy.layers
    # Behind the fits, so that what is seen is changed already.
    after += [(layer.output, attended) for layer in layers if layer.output is not None]
    with hooked(after, [(layer.module, enter) for layer in layers]):
        run_tree(lens_model, pairing.alone)
    return Adapter.of(lens_model, rank, sites, maps)
