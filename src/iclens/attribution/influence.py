"""Influence: the derivative of the margin with respect to each training weight, where all demonstrations weigh half."""

from __future__ import annotations

import torch

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted


@ATTRIBUTIONS.register("influence")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """∂M/∂w_i at w = (½, …, ½): a forward and a backward pass, after the one that fixes what is explained."""
    return counted(lens, lambda: lens.by_demonstration(lens.influence().by_token))
