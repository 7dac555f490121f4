"""The exact knock-out of each demonstration alone, at the query's tokens."""

from __future__ import annotations

import torch

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores


@ATTRIBUTIONS.register("knock_out")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """The margin minus what it is when the query's dual models are trained without one of them.

    Costs one pass, and for each demonstration (and once for none, as a check) one over the query's tokens.
    """
    n = len(lens.input_ids)
    passes = 1.0 + (lens.n_demonstrations + 1) * (n - lens.query_start) / n
    return Scores(lens.knock_out().margin_changes.cpu().double(), passes)
