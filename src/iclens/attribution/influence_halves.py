"""Influence inside halves of the prompt: half of the demonstrations really deleted, the others' weights differentiated.

What deleting demonstrations does to a text, a mask does not quite: later text moves up, and nothing is left of what
earlier demonstrations put into later ones. A gradient at the whole prompt knows the first only of masks. Here each
demonstration is scored in a prompt that really holds but half of the others.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.lens.lens import Lens
from iclens.lens.scores.influence import HALF
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted


def in_halves(lens: Lens, generator: torch.Generator, n_splits: int = 1) -> Float[Tensor, " n_demonstrations"]:
    """Return the mean over splits of ∂M/∂w_i at half weight, in the prompt of the half that holds i.

    A forward and a backward pass over either half: two passes a split. Each of two splits divides the other's halves
    evenly.
    """
    n = lens.n_demonstrations
    place = torch.randperm(n, generator=generator)
    total = torch.zeros(n, dtype=torch.float64)
    for split in range(n_splits):
        first = (place >> split) & 1 == 0
        for keep in (first, ~first):
            if bool(keep.any()):
                total[keep] += _inside(lens, keep)
    return total / n_splits


def _inside(lens: Lens, keep: Bool[Tensor, " n"]) -> Float[Tensor, " n_kept"]:
    shortened = lens.prompt.without((~keep).nonzero().flatten().tolist())
    most_tokens = lens.passes.most_tokens
    half = Lens(lens.model, shortened, readout=lens.readout, held=False, most_tokens=most_tokens)
    found = half.influences(torch.full((1, half.n_demonstrations), HALF, dtype=torch.float64))[0]
    share = half.tokenized.n_tokens / lens.tokenized.n_tokens
    lens.passes.forward_passes += half.passes.forward_passes * share
    lens.passes.backward_passes += half.passes.backward_passes * share
    return found


def score(lens: Lens, generator: torch.Generator, *, n_splits: int) -> Scores:
    """∂M/∂w_i at half weight inside real halves of the prompt."""
    return counted(lens, lambda: in_halves(lens, generator, n_splits))


ATTRIBUTIONS.register("influence_halves")(partial(score, n_splits=1))
ATTRIBUTIONS.register("influence_halves_2")(partial(score, n_splits=2))
