"""Label doubt: the model's odds for a demonstration's own label against the others', beside those of its namesakes."""

from __future__ import annotations

import torch
from torch import Tensor

from iclens.attribution.labels.label_surprise import N_ORDERS
from iclens.attribution.shared.label_odds import label_odds
from iclens.attribution.shared.label_places import orders
from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted


@ATTRIBUTIONS.register("label_doubt")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """log p(own label)/p(other labels) by their first tokens, minus its mean over demonstrations of the same label.

    Averaged over 4 random orders and their reverses. The odds leave out what the model expects beside the labels, the
    mean leaves out that it prefers one label whatever the input. A label that stands alone is not centred.
    """

    def values() -> Tensor:
        found = label_odds(lens, orders(generator, lens.n_demonstrations, N_ORDERS))
        alike = (found.own[:, None] == found.own).double()
        counts, odds = alike.sum(1), found.of_own
        return torch.where(counts > 1, odds - alike @ odds / counts, odds)

    return counted(lens, values)
