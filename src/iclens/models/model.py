"""What every model for prompts is: many runs in one module, answers shaped like those of an estimator."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from iclens.errors import UserError
from iclens.registry import Registry
from iclens.tasks.shapes import RunsInputs, RunsLabels


class PromptModel(nn.Module, abc.ABC):
    """Several independent models of one shape, the runs, in one module.

    Every parameter has a leading axis of runs, and run r of a large ensemble starts from the same numbers as the same
    run alone: its parameters are drawn from its own generator, seeded with `seeds[r]`.

    A constructor takes the widths `d` and `d_y` of the task, the seeds, and options as keywords.

    Attributes:
        every_prefix: whether the model answers every prefix of a prompt at once; otherwise it answers the query only.
    """

    every_prefix: bool = True

    def __init__(self, d: int, d_y: int, seeds: Sequence[int]) -> None:
        super().__init__()
        if not seeds:
            raise UserError("a model needs at least one seed: one for each run.")
        self.d, self.d_y, self.seeds = d, d_y, tuple(seeds)

    def __repr__(self) -> str:
        n_parameters = sum(parameter[0].numel() for parameter in self.parameters())
        of = f"d={self.d}, d_y={self.d_y}, n_runs={self.n_runs}"
        return f"<{type(self).__name__} {of}: {n_parameters:,} parameters a run>"

    @property
    def n_runs(self) -> int:
        """Number of runs in this module."""
        return len(self.seeds)

    @abc.abstractmethod
    def forward(self, inputs: RunsInputs, labels: RunsLabels) -> Float[Tensor, "runs batch n_answers d_y"]:
        """Predictions, n_answers = n_points, or 1 (the last point) where `every_prefix` is False.

        Prediction i depends on the points before i and on x_i; the label of point i has no influence on it.
        """

    def check_points(self, n_points: int) -> None:
        """Refuse prompts of `n_points` points (demonstrations and query) that the model cannot read.

        Raises:
            UserError: too many points for its positions.
        """


MODELS: Registry[type[PromptModel]] = Registry("model", "iclens.models", package="iclens.models", papers=True)


def build_model(name: str, *, d: int, d_y: int, seeds: Sequence[int], **options: Any) -> PromptModel:
    """Return the registered model `name` for inputs of width d and labels of width d_y, with one run for each seed.

    Raises:
        UserError: an unknown name or option ("did you mean"), or sizes that do not fit each other.
    """
    return MODELS.checked(name, options, given=3)(d, d_y, seeds, **options)
