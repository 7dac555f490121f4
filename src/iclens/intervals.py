"""Means with bootstrap intervals over prompts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LEVEL = 0.95
N_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean and its percentile interval.

    Attributes:
        mean: the mean over the prompts.
        low: lower end of the 95 % interval.
        high: upper end.
        n: how many prompts it rests on; those where the number is undefined are left out.
    """

    mean: float
    low: float
    high: float
    n: int

    def agrees(self, expected: float) -> bool:
        """Whether an exact value lies within twice the interval: the 95 % interval misses a true one once in twenty."""
        half = (self.high - self.low) / 2
        return self.low - half <= expected <= self.high + half

    @property
    def short(self) -> str:
        """The mean and half the width of the interval, e.g. `0.943 ±0.011`; empty where there is no prompt."""
        return f"{self.mean:.3f} ±{(self.high - self.low) / 2:.3f}" if self.n else ""

    def __str__(self) -> str:
        return format(self, ".3f")

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def estimate(values: Float[Tensor, " n_prompts"], seed: int = 0) -> Estimate:
    """Mean of per-prompt numbers with a 95 % percentile bootstrap interval over the prompts.

    Args:
        values: one number a prompt; NaN marks one that is undefined.
        seed: seed of the resampling.
    """
    known = values.double()[~values.isnan()]
    n = len(known)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    chosen = torch.randint(n, (N_RESAMPLES, n), generator=torch.Generator().manual_seed(seed))
    means = known[chosen].mean(-1)
    tail = (1 - LEVEL) / 2
    low, high = means.quantile(means.new_tensor([tail, 1 - tail])).tolist()
    return Estimate(float(known.mean()), low, high, n)
