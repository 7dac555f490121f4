"""Classification in context: the classes of a prompt are drawn first, and then the inputs from them."""

from __future__ import annotations

import abc
from collections.abc import Mapping

import torch
from torch import Tensor

from iclens.tasks.options import require_at_least_zero, require_counts
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.shapes import Inputs
from iclens.tasks.task import Task

BEST_MEASURED = "measured: the least squared error among neighbours, averaging, ridge and kernel ridge at the defaults"


class FunctionFirst(Task, abc.ABC):
    """A task whose inputs depend on the function of the prompt; labels are one-hot.

    `sample` draws the function and then inputs of it; the hook `sample_inputs` alone draws inputs of a function that it
    does not tell.
    """

    @abc.abstractmethod
    def sample_inputs_of(
        self, generator: torch.Generator, function: Mapping[str, Tensor], batch: tuple[int, ...], n_points: int
    ) -> Inputs:
        """Draw inputs for given functions."""

    def sample_inputs(self, generator: torch.Generator, batch: tuple[int, ...], n_points: int) -> Inputs:  # noqa: D102
        return self.sample_inputs_of(generator, self.sample_function(generator, batch), batch, n_points)

    def sample(self, generator: torch.Generator, batch: int | tuple[int, ...], n_context: int) -> PromptBatch:
        """See `Task.sample`."""
        shape = checked_shape(batch, n_context)
        function = self.sample_function(generator, shape)
        inputs = self.sample_inputs_of(generator, function, shape, n_context + 1)
        return PromptBatch(inputs, self.observed(generator, self.values(inputs, function)), function)


def checked_shape(batch: int | tuple[int, ...], n_context: int) -> tuple[int, ...]:
    """Return the leading axes of a batch of prompts.

    Raises:
        UserError: a negative number of demonstrations, or an empty batch.
    """
    shape = (batch,) if isinstance(batch, int) else tuple(batch)
    require_at_least_zero(n_context=n_context)
    require_counts(**{f"batch[{axis}]": size for axis, size in enumerate(shape)})
    return shape
