"""Sensitivity: how much the margin depends on a demonstration through single heads, whatever the direction.

The influence adds what heads say for an answer and against it. A demonstration that settles which of two rules holds is
read by heads of the lower layers that pull either way; their sizes do not cancel.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted


@ATTRIBUTIONS.register("sensitivity")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """Σ |∂M/∂w| over a demonstration's tokens and the heads of the lower half of the layers, in nats; never negative.

    The derivatives are those of `influence`, and cost what it costs.
    """

    def values() -> Float[Tensor, " n_demonstrations"]:
        by_head = lens.influence().by_weight
        lower = by_head[: (len(by_head) + 1) // 2]
        return lens.by_demonstration(lower.abs().sum((0, 1)))

    return counted(lens, values)
