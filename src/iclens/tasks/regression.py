"""What all regression tasks have: inputs with independent coordinates, and Gaussian noise on the labels."""

from __future__ import annotations

import abc

import torch

from iclens.tasks.draws import INPUTS, normal, uniform
from iclens.tasks.options import require_at_least_zero, require_counts, require_one_of, require_positive
from iclens.tasks.shapes import Inputs, Labels
from iclens.tasks.task import Task


class Regression(Task, abc.ABC):
    """y = f(x) + σ z with z ~ N(0, I).

    Args:
        d: width of the inputs.
        d_y: width of the labels.
        noise_std: σ, 0 for no noise.
        inputs: `normal` for x ~ N(0, s² I), `uniform` for independent coordinates from U(−s, s).
        input_scale: s, positive.

    Raises:
        UserError: a width below 1, a negative noise, a scale that is not positive, or unknown inputs.
    """

    linear_in = "weight"
    """The entry of a prompt's `function` in which the values are linear."""

    def __init__(
        self, *, d: int, d_y: int = 1, noise_std: float = 0.0, inputs: str = "normal", input_scale: float = 1.0
    ) -> None:
        require_counts(d=d, d_y=d_y)
        require_at_least_zero(noise_std=noise_std)
        require_one_of("inputs", inputs, INPUTS)
        require_positive(input_scale=input_scale)
        self.d, self.d_y, self.noise_std = d, d_y, noise_std
        self.inputs, self.input_scale = inputs, input_scale

    def sample_inputs(self, generator: torch.Generator, batch: tuple[int, ...], n_points: int) -> Inputs:  # noqa: D102
        if self.inputs == "uniform":
            return uniform(generator, *batch, n_points, self.d).mul_(2 * self.input_scale).sub_(self.input_scale)
        drawn = normal(generator, *batch, n_points, self.d)
        return drawn if self.input_scale == 1 else drawn.mul_(self.input_scale)

    def observed(self, generator: torch.Generator, values: Labels) -> Labels:  # noqa: D102
        return values + self.noise_std * normal(generator, *values.shape) if self.noise_std else values
