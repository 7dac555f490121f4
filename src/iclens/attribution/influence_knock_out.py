"""Influence and knock-out together: what a weight does at halves of all others, and what cutting one off does at once.

The influence is a derivative in all layers, and errs where half weights are far from the prompt. The knock-out is
exact, of the whole prompt and of the query's tokens alone. Both are in nats, and they err in different prompts.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted


@ATTRIBUTIONS.register("influence_knock_out")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """(∂M/∂w_i + M − M without i at the query's tokens) / 2, in nats.

    Costs the influence's passes, and for each demonstration (and once for none) one over the query's tokens.
    """

    def values() -> Float[Tensor, " n_demonstrations"]:
        influence = lens.by_demonstration(lens.influence().by_token)
        return (influence + lens.knock_out().margin_changes.cpu().double()) / 2

    return counted(lens, values)
