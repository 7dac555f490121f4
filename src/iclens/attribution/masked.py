"""One at a time by masks: each demonstration's training weight set to zero, in every layer and for all later tokens."""

from __future__ import annotations

import torch

from iclens.attribution.training_weights import weighted_margins
from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted


@ATTRIBUTIONS.register("masked")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """M(1) − M(w_i = 0): a pass for each demonstration and one for none."""

    def values() -> torch.Tensor:
        n = lens.n_demonstrations
        margins = weighted_margins(lens, torch.cat([1 - torch.eye(n), torch.ones(1, n)]).double())
        return margins[-1] - margins[:-1]

    return counted(lens, values)
