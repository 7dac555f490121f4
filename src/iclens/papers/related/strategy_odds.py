"""The posterior odds of memorising against generalising after some steps on some tasks, and their fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from iclens.recipes.table import Cell

STARTS = tuple((g, a, k, c) for g in (-2.0, 1.0) for a in (0.3, 1.0) for k in (-2.0, 1.0) for c in (0.3, 1.0))
"""Where the fit begins: log γ, a, log κ, c. The best of its ends counts."""


@dataclass(frozen=True)
class Condition:
    """A model y beside the memorising predictor m and the generalising one g, as means over prompts.

    Attributes:
        tasks: M, of the pool.
        step: t.
        saved: ΔL, the loss that memorising saves on the pool's own prompts, in nats.
        between: ⟨(m − g)²⟩.
        along: ⟨(m − g)(y − g)⟩.
        from_prior: ⟨(y − g)²⟩.
        variance: of y.
    """

    tasks: int
    step: int
    saved: float
    between: float
    along: float
    from_prior: float
    variance: float

    @staticmethod
    def of(row: Mapping[str, Cell]) -> Condition:
        """Return a row of the recipe's table as a condition."""
        names = ("saved", "between", "along", "from_prior", "variance")
        return Condition(int(row["tasks"] or 0), int(row["step"] or 0), *(float(row[name] or 0) for name in names))

    @property
    def best(self) -> float:
        """The weight w whose mixture w m + (1 − w) g is nearest to y."""
        return self.along / self.between

    def error(self, weight: float) -> float:
        """Return ⟨(y − w m − (1 − w) g)²⟩."""
        return self.from_prior - 2 * weight * self.along + weight**2 * self.between


@dataclass(frozen=True)
class Odds:
    """log w/(1 − w) = γ (t/1000)^a ΔL − κ M^c.

    Attributes:
        gain: γ.
        growth: a.
        cost: κ.
        power: c.
    """

    gain: float
    growth: float
    cost: float
    power: float

    def weight(self, one: Condition) -> float:
        """Return w, the posterior of memorising."""
        evidence = self.gain * (one.step / 1000) ** self.growth * one.saved
        return _logistic(evidence - self.cost * one.tasks**self.power)

    def __str__(self) -> str:
        return f"γ = {self.gain:.3g}, a = {self.growth:.2f}, κ = {self.cost:.3g}, c = {self.power:.2f}"


def squares(many: Sequence[Condition]) -> Condition:
    """Return several conditions as one: the sums of their squares, and the step and tasks of the first."""
    first = many[0]
    names = ("between", "along", "from_prior", "variance")
    sums = {name: sum(getattr(one, name) for one in many) for name in names}
    return Condition(first.tasks, first.step, sum(one.saved for one in many) / len(many), **sums)


def fitted(many: Sequence[Condition]) -> Odds:
    """Return the odds whose mixtures miss the least of the models' answers, relative to the variance of each condition.

    By quasi-Newton steps from each of `STARTS`; γ and κ are positive.
    """
    from scipy.optimize import minimize

    columns = np.array([(c.step, c.tasks, c.saved, c.between, c.along, c.from_prior, c.variance) for c in many]).T
    step, tasks, saved, between, along, from_prior, variance = columns

    def missed(numbers: np.ndarray) -> float:
        log_gain, growth, log_cost, power = numbers
        odds = np.exp(log_gain) * (step / 1000) ** growth * saved - np.exp(log_cost) * tasks**power
        weight = 0.5 * (1 + np.tanh(odds / 2))
        return float(((from_prior - 2 * weight * along + weight**2 * between) / variance).mean())

    bounds = [(-12, 8), (0, 3), (-12, 8), (0, 2)]
    ends = [minimize(missed, start, method="L-BFGS-B", bounds=bounds) for start in STARTS]
    log_gain, growth, log_cost, power = min(ends, key=lambda end: float(end.fun)).x.tolist()
    return Odds(math.exp(log_gain), growth, math.exp(log_cost), power)


def _logistic(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))
