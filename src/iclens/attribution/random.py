"""Random scores: the control."""

from __future__ import annotations

import torch

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores


@ATTRIBUTIONS.register("random")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """Uniform scores that know nothing: AUC ½."""
    return Scores(torch.rand(lens.n_demonstrations, generator=generator, dtype=torch.float64), 0.0)
