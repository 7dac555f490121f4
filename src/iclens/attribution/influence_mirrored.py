"""Influence at random weights and at their mirror image: what a demonstration adds where about half of them count."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted

HIGH, LOW = 0.85, 0.25
"""The weights of the two halves of the demonstrations; the mirror image swaps them."""


def mirrored(lens: Lens, generator: torch.Generator, n_pairs: int = 1) -> Float[Tensor, " n_demonstrations"]:
    """The mean of ∂M/∂w over `n_pairs` random splits into halves of weight .85 and .25, and over their mirror images.

    Both weights meet every demonstration, so that none is favoured by the draw.
    """
    n = lens.n_demonstrations
    first = torch.stack([torch.randperm(n, generator=generator) < n // 2 for _ in range(n_pairs)])
    chosen = torch.cat([first, ~first])
    return lens.influences(torch.where(chosen, HIGH, LOW).double()).mean(0)


def score(lens: Lens, generator: torch.Generator, *, n_pairs: int) -> Scores:
    """∂M/∂w at one vector of weights and its mirror image (4 passes), or at more."""
    return counted(lens, lambda: mirrored(lens, generator, n_pairs))


ATTRIBUTIONS.register("influence_mirrored")(partial(score, n_pairs=1))
ATTRIBUTIONS.register("influence_mirrored_4")(partial(score, n_pairs=4))
