"""Two prompts on the same examples: what each reaches, and the paired difference, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from iclens.intervals import Estimate, estimate
from iclens.selection.evaluator import Said


@dataclass(frozen=True)
class Measured:
    """What a prompt reaches.

    Attributes:
        metric: the mean of the metric; of the log-loss the accuracy.
        log_loss: the mean of −log p(right answer), nats.
    """

    metric: Estimate
    log_loss: Estimate


@dataclass(frozen=True)
class Compared:
    """Two prompts on the same examples.

    Attributes:
        before: the one prompt.
        after: the other.
        change: the second less the first, example by example.
    """

    before: Measured
    after: Measured
    change: Measured


def measured(values: Float[Tensor, " n"], log_p: Float[Tensor, " n"]) -> Measured:
    """Means over examples with intervals."""
    return Measured(estimate(values), estimate(-log_p))


def compared(said: Said, before: int, after: int) -> Compared:
    """Compare two of the prompts that were run."""
    first, second = (measured(said.values[i], said.log_p[i]) for i in (before, after))
    change = measured(said.values[after] - said.values[before], said.log_p[after] - said.log_p[before])
    return Compared(first, second, change)


def is_clear(change: Estimate) -> bool:
    """Return whether an interval leaves zero out."""
    return change.low > 0 or change.high < 0
