"""Shifts of the functions and of the noise; the inputs stay as they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from iclens.errors import UserError
from iclens.tasks.draws import normal
from iclens.tasks.options import require_at_least_zero, require_positive
from iclens.tasks.shapes import Labels
from iclens.tasks.shifts import SHIFTS, Shift
from iclens.tasks.task import Optimal, Task


class CoefficientShift(Shift):
    """w → mean + factor · w, w the entry of the function in which the values are linear (a task's `linear_in`)."""

    mean: float = 0.0
    factor: float = 1.0

    def sample_function(self, generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the task's functions, their coefficients changed.

        Raises:
            UserError: the task has no such entry.
        """
        function = dict(self.task.sample_function(generator, batch))
        if self.linear_in not in function:
            raise UserError(
                f"{type(self.task).__name__} has functions of {', '.join(function) or 'nothing'} without "
                f"{self.linear_in!r}: set its attribute `linear_in` to the entry in which the values are linear."
            )
        return {**function, self.linear_in: self.mean + self.factor * function[self.linear_in]}


@SHIFTS.register("scale-function")
class ScaleFunction(CoefficientShift):
    """w → factor · w. Source: Garg et al. 2022.

    Args:
        task: what is shifted.
        factor: positive.

    Raises:
        UserError: a factor that is not positive, or a task that cannot be shifted.
    """

    def __init__(self, task: Task, *, factor: float = 3.0) -> None:
        super().__init__(task)
        require_positive(factor=factor)
        self.factor = factor

    def optimal(self) -> Optimal:
        """Return the optimum of the task with a scale of the weights (`weight_std`) that is `factor` times as large."""
        return self.optimal_with("weight_std", lambda std: std * self.factor)


@SHIFTS.register("mean-shift")
class MeanShift(CoefficientShift):
    """w → mean + factor · w: for w ~ N(0, I) the coefficients are N(mean, factor² I).

    Source: Yang et al. 2024, λ ~ N(**1**, 4 I).

    Args:
        task: what is shifted.
        mean: of every coefficient, finite.
        factor: positive.

    Raises:
        UserError: a mean or factor out of its range, or a task that cannot be shifted.
    """

    def __init__(self, task: Task, *, mean: float = 1.0, factor: float = 2.0) -> None:
        super().__init__(task)
        require_positive(factor=factor)
        if not math.isfinite(mean):
            raise UserError(f"mean={mean} must be finite.")
        self.mean, self.factor = mean, factor


@SHIFTS.register("label-noise")
class LabelNoise(Shift):
    """Further noise on all labels: y → y + σ z, z ~ N(0, I).

    Args:
        task: what is shifted.
        noise_std: σ, not negative.

    Raises:
        UserError: negative noise, or a task that cannot be shifted.
    """

    def __init__(self, task: Task, *, noise_std: float = 1.0) -> None:
        super().__init__(task)
        require_at_least_zero(noise_std=noise_std)
        self.noise_std = noise_std

    def observed(self, generator: torch.Generator, values: Labels) -> Labels:  # noqa: D102
        return self.task.observed(generator, values) + self.noise_std * normal(generator, *values.shape)

    def optimal(self) -> Optimal:
        """Return the optimum of the unshifted task with the total noise level."""
        return self.optimal_with("noise_std", lambda std: math.hypot(std, self.noise_std))
