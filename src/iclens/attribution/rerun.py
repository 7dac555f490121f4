"""The true leave-one-out: the text of each demonstration deleted in turn."""

from __future__ import annotations

import torch

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores


@ATTRIBUTIONS.register("rerun")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """The margin minus the margin of the prompt without the demonstration's text: n_demonstrations + 1 passes."""
    n = lens.n_demonstrations
    keep = torch.cat([~torch.eye(n, dtype=torch.bool), torch.ones(1, n, dtype=torch.bool)])
    margins = lens.deletions(keep).margins.double()
    return Scores(margins[-1] - margins[:-1], n + 1.0)
