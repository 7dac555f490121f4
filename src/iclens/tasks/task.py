"""What every in-context task is: how inputs and functions are drawn, and the best estimator known."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from iclens.errors import UserError
from iclens.registry import Registry
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.shapes import Inputs, Labels


@dataclass(frozen=True)
class Optimal:
    """The best estimator known for a task, by name, so that tasks need not know estimators.

    Attributes:
        estimator: a registered name of `iclens.estimators`.
        options: its options.
        exact: whether it is the Bayes predictor (for squared error), not just the best known one.
        source: where this is known from.
    """

    estimator: str
    options: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = False
    source: str = ""


class Task(abc.ABC):
    """A distribution of functions f and of inputs x; a prompt is n points of one f.

    `sample` draws inputs, then the function, then the noise, from one generator; equal states give equal prompts. A
    task has no state of its own: what is fixed over prompts (a dictionary, a representation, a pool) is drawn in the
    constructor from the option `seed`.

    Constructor options are keywords with plain values (numbers, strings, booleans), so that a configuration can hold
    them; each is kept as an attribute of the same name.

    Attributes:
        d: width of the inputs.
        d_y: width of the labels.
    """

    d: int
    d_y: int = 1

    @abc.abstractmethod
    def sample_inputs(self, generator: torch.Generator, batch: tuple[int, ...], n_points: int) -> Inputs:
        """Draw inputs."""

    @abc.abstractmethod
    def sample_function(self, generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw functions: named tensors, each with the leading axes `batch`."""

    @abc.abstractmethod
    def values(self, inputs: Inputs, function: Mapping[str, Tensor]) -> Labels:
        """f(x), without noise."""

    def observed(self, generator: torch.Generator, values: Labels) -> Labels:
        """Labels as the prompt shows them: the values with noise, if the task has any."""
        return values

    @abc.abstractmethod
    def optimal(self) -> Optimal:
        """Return the best estimator known."""

    def sample(self, generator: torch.Generator, batch: int | tuple[int, ...], n_context: int) -> PromptBatch:
        """Draw prompts of `n_context` demonstrations and a query, in torch's default dtype.

        Args:
            generator: the source of randomness.
            batch: leading axes.
            n_context: number of demonstrations, at least 0.

        Raises:
            UserError: a negative number of demonstrations, or an empty batch.
        """
        shape = (batch,) if isinstance(batch, int) else tuple(batch)
        if n_context < 0 or any(size < 1 for size in shape):
            raise UserError(f"n_context={n_context} must be at least 0 and batch={batch} positive.")
        inputs = self.sample_inputs(generator, shape, n_context + 1)
        function = self.sample_function(generator, shape)
        return PromptBatch(inputs, self.observed(generator, self.values(inputs, function)), function)


TASKS: Registry[type[Task]] = Registry("task", "iclens.tasks", package="iclens.tasks", papers=True)


def build_task(name: str, **options: Any) -> Task:
    """Return the registered task `name` with these options.

    Raises:
        UserError: an unknown name or option ("did you mean"), or an option out of its range.
    """
    return TASKS.checked(name, options)(**options)
