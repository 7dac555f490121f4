"""A batch of prompts: points with labels, the last of which is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.tasks.shapes import Inputs, Labels


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """Demonstrations (x_1, y_1) … (x_n, y_n) and a query x_{n+1} with its target.

    All n + 1 points are kept together, because a model or an estimator answers every prefix: point i is the query of
    the i − 1 points before it. Leading axes are free: batch, or runs and batch.

    Attributes:
        inputs: x_1 … x_{n+1}, (..., n_context + 1, d).
        labels: y_1 … y_{n+1}, (..., n_context + 1, d_y); with noise where the task has it. Classes are one-hot.
        function: what was drawn with the function that the prompt teaches, by name (for linear regression `weight`);
            each entry has the leading axes of `inputs`.
    """

    inputs: Inputs
    labels: Labels
    function: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.inputs.shape[:-1] != self.labels.shape[:-1]:
            raise UserError(
                f"inputs have shape {tuple(self.inputs.shape)} and labels {tuple(self.labels.shape)}: all axes but the "
                "last must be equal."
            )

    @property
    def n_context(self) -> int:
        """Number of demonstrations before the query."""
        return self.inputs.shape[-2] - 1

    @property
    def xs(self) -> Float[Tensor, "*batch n_context d"]:
        """Inputs of the demonstrations."""
        return self.inputs[..., :-1, :]

    @property
    def ys(self) -> Float[Tensor, "*batch n_context d_y"]:
        """Labels of the demonstrations."""
        return self.labels[..., :-1, :]

    @property
    def query(self) -> Float[Tensor, "*batch d"]:
        """Input of the point that is asked for."""
        return self.inputs[..., -1, :]

    @property
    def target(self) -> Float[Tensor, "*batch d_y"]:
        """Label of the point that is asked for."""
        return self.labels[..., -1, :]

    @staticmethod
    def stack(prompts: list[PromptBatch]) -> PromptBatch:
        """Prompts of equal shapes under a new first axis (runs)."""
        return PromptBatch(
            torch.stack([prompt.inputs for prompt in prompts]),
            torch.stack([prompt.labels for prompt in prompts]),
            {name: torch.stack([prompt.function[name] for prompt in prompts]) for name in prompts[0].function},
        )
