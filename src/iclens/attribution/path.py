"""The path: contributions through all layers with weights, norms and gates held."""

from __future__ import annotations

import torch

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores


@ATTRIBUTIONS.register("path")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """Sum over a demonstration's tokens of their share of the margin through all layers (`iclens.lens.scores.path`)."""
    return Scores(lens.by_demonstration(lens.path.parts), 1.0, 1.0)
