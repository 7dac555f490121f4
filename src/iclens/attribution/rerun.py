"""The true leave-one-out: the text of each demonstration deleted in turn."""

from __future__ import annotations

import torch
from torch import Tensor

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted


@ATTRIBUTIONS.register("rerun")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """The margin minus the margin of the prompt without the demonstration's text, n_demonstrations + 1 prompts.

    What they begin with alike is read once: about half of that many passes.
    """

    def values() -> Tensor:
        n = lens.n_demonstrations
        keep = torch.cat([~torch.eye(n, dtype=torch.bool), torch.ones(1, n, dtype=torch.bool)])
        margins = lens.deletions(keep).margins.double()
        return margins[-1] - margins[:-1]

    return counted(lens, values)
