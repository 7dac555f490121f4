"""What a method that scores demonstrations gives back, and the registry of such methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.registry import Registry


@dataclass(frozen=True)
class Scores:
    """A method's scores of the demonstrations, the more the better for the answer, and what they cost.

    Attributes:
        values: one score per demonstration.
        forward_passes: full passes over a prompt; a batch of m prompts counts m, a pass over a part of the tokens
            counts their share.
        backward_passes: the same for backward passes.
    """

    values: Float[Tensor, " n_demonstrations"]
    forward_passes: float
    backward_passes: float = 0.0


def counted(lens: Any, values: Callable[[], Float[Tensor, " n_demonstrations"]]) -> Scores:
    """Compute scores by passes of a `Lens`, with the passes that they cost it."""
    before, scores, after = lens.passes.cost, values(), lens.passes.cost
    return Scores(scores, after.forward_passes - before.forward_passes, after.backward_passes - before.backward_passes)


Attribution = Callable[[Any, torch.Generator], Scores]
"""A method: scores the demonstrations of a `Lens`; the generator is its only source of randomness."""

ATTRIBUTIONS: Registry[Attribution] = Registry("attribution method", "iclens.attributions")
