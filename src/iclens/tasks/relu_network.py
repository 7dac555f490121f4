"""Random two-layer ReLU networks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from iclens.tasks.draws import normal
from iclens.tasks.options import require_counts
from iclens.tasks.regression import Regression
from iclens.tasks.shapes import Inputs, Labels
from iclens.tasks.task import TASKS, Optimal


@TASKS.register("relu-network")
class ReluNetwork(Regression):
    """y = √(2/r) aᵀ ReLU(W x) + σ z with r hidden units, all weights and inputs N(0, 1); E y² = d + σ².

    `function` holds `hidden_weight`, W, (*batch, r, d), and `output_weight`, a, (*batch, r, d_y).

    Source: Garg et al. 2022.

    Args:
        d: width of the inputs.
        d_y: width of the labels, which share W.
        hidden: r, number of hidden units.
        noise_std: σ, 0 for no noise.

    Raises:
        UserError: an option out of its range.
    """

    linear_in = "output_weight"

    def __init__(self, *, d: int = 20, d_y: int = 1, hidden: int = 100, noise_std: float = 0.0) -> None:
        super().__init__(d=d, d_y=d_y, noise_std=noise_std)
        require_counts(hidden=hidden)
        self.hidden = hidden

    def sample_function(self, generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:
        """`hidden_weight` and `output_weight`."""
        return {
            "hidden_weight": normal(generator, *batch, self.hidden, self.d),
            "output_weight": normal(generator, *batch, self.hidden, self.d_y),
        }

    def values(self, inputs: Inputs, function: Mapping[str, Tensor]) -> Labels:  # noqa: D102
        active = (inputs @ function["hidden_weight"].mT).relu()
        return active @ function["output_weight"] * math.sqrt(2 / self.hidden)

    def optimal(self) -> Optimal:
        """Return a network of the same shape, trained on the demonstrations; not the Bayes predictor."""
        options = {"hidden_size": self.hidden}
        return Optimal("two-layer-network", options, source="Garg et al. 2022: the best of their baselines")
