"""Shifted versions of tasks: one hook of a task is changed, the others are left alone."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from iclens.errors import UserError
from iclens.registry import Registry
from iclens.tasks.shapes import Inputs, Labels
from iclens.tasks.task import Optimal, Task


class Shift(Task):
    """A task with one hook changed; here none is, so that a subclass overrides the one that it changes.

    Prompts that are longer than in training need no shift: ask the task for more demonstrations.

    Args:
        task: what is shifted.

    Raises:
        UserError: a task whose `sample` does more than ask its hooks one after another, such as classification, where
            inputs depend on the function.
    """

    changes_inputs_only = False
    """Whether the shift changes nothing but the law of the inputs, which no Bayes predictor of a function that is drawn
    independently of them depends on."""

    def __init__(self, task: Task) -> None:
        if not isinstance(task, Shift) and type(task).sample is not Task.sample:
            raise UserError(
                f"{type(task).__name__} draws inputs and functions together, so that no shift can change one alone; "
                "its own options are the way to another version of it."
            )
        self.task, self.d, self.d_y = task, task.d, task.d_y
        self.linear_in: str = getattr(task, "linear_in", "weight")

    def sample_inputs(self, generator: torch.Generator, batch: tuple[int, ...], n_points: int) -> Inputs:  # noqa: D102
        return self.task.sample_inputs(generator, batch, n_points)

    def sample_function(self, generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:  # noqa: D102
        return self.task.sample_function(generator, batch)

    def values(self, inputs: Inputs, function: Mapping[str, Tensor]) -> Labels:  # noqa: D102
        return self.task.values(inputs, function)

    def observed(self, generator: torch.Generator, values: Labels) -> Labels:  # noqa: D102
        return self.task.observed(generator, values)

    def optimal(self) -> Optimal:
        """Return the task's own, as exact as it was if only the inputs are shifted."""
        optimal = self.task.optimal()
        return dataclasses.replace(optimal, exact=optimal.exact and self.changes_inputs_only)

    def optimal_with(self, option: str, change: Callable[[float], float]) -> Optimal:
        """Return what the task's optimum would be with another value of one of its options.

        Exact only if the task has this option and nothing but its inputs is shifted already.

        Args:
            option: e.g. `noise_std`.
            change: the old value to the new one.
        """
        task = self.task
        while isinstance(task, Shift) and task.changes_inputs_only:
            task = task.task
        if isinstance(task, Shift) or not hasattr(task, option):
            return dataclasses.replace(task.optimal(), exact=False)
        other = copy.copy(task)
        setattr(other, option, change(getattr(task, option)))
        return other.optimal()


SHIFTS: Registry[type[Shift]] = Registry("shift", "iclens.shifts", package="iclens.tasks")


def shifted(task: Task, name: str, **options: Any) -> Shift:
    """Return the task under the registered shift `name` with these options; shifts may be piled up.

    Raises:
        UserError: an unknown name or option ("did you mean"), an option out of its range, or a task that cannot be
            shifted.
    """
    return SHIFTS.checked(name, options, given=1)(task, **options)
