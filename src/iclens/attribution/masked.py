"""One at a time by masks: each demonstration's training weight set to zero, in every layer and for all later tokens."""

from __future__ import annotations

import torch

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted


@ATTRIBUTIONS.register("masked")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """M(1) − M(w_i = 0): a pass for each demonstration, one for none, and the one that it is compared with."""
    return counted(lens, lambda: lens.knock_out(query_only=False).margin_changes)
