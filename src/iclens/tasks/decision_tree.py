"""Random decision trees on the signs of coordinates."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from iclens.errors import UserError
from iclens.tasks.draws import integers, normal
from iclens.tasks.options import require_counts
from iclens.tasks.regression import Regression
from iclens.tasks.shapes import Inputs, Labels
from iclens.tasks.task import TASKS, Optimal

DEEPEST = 20
"""A deeper tree has more than a million leaves."""


@TASKS.register("decision-tree")
class DecisionTree(Regression):
    """A full binary tree: each inner node asks for the sign of a random coordinate, each leaf is N(0, 1).

    At a node with coordinate c the path goes right where x_c > 0. `function` holds `coordinates`,
    (*batch, 2^depth − 1), level by level, and `leaves`, (*batch, 2^depth, d_y), from left to right. E y² = 1 + σ².

    Source: Garg et al. 2022 (depth 4, thresholds 0).

    Args:
        d: width of the inputs, which are N(0, I).
        d_y: width of the labels; their leaves are independent.
        depth: levels of inner nodes.
        noise_std: σ, 0 for no noise.

    Raises:
        UserError: an option out of its range.
    """

    linear_in = "leaves"

    def __init__(self, *, d: int = 20, d_y: int = 1, depth: int = 4, noise_std: float = 0.0) -> None:
        super().__init__(d=d, d_y=d_y, noise_std=noise_std)
        require_counts(depth=depth)
        if depth > DEEPEST:
            raise UserError(f"depth={depth} must be at most {DEEPEST}: a tree has 2^depth leaves.")
        self.depth = depth

    def sample_function(self, generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:
        """`coordinates` and `leaves`."""
        n_leaves = 2**self.depth
        return {
            "coordinates": integers(self.d, generator, *batch, n_leaves - 1),
            "leaves": normal(generator, *batch, n_leaves, self.d_y),
        }

    def values(self, inputs: Inputs, function: Mapping[str, Tensor]) -> Labels:  # noqa: D102
        coordinates, leaves = function["coordinates"], function["leaves"]
        nodes = torch.zeros(inputs.shape[:-1], dtype=torch.long, device=inputs.device)
        for _ in range(self.depth):
            asked = coordinates.gather(-1, nodes)
            right = inputs.gather(-1, asked.unsqueeze(-1)).squeeze(-1) > 0
            nodes = 2 * nodes + 1 + right
        reached = (nodes - coordinates.shape[-1]).unsqueeze(-1)
        return leaves.gather(-2, reached.expand(*inputs.shape[:-1], leaves.shape[-1]))

    def optimal(self) -> Optimal:
        """Gradient boosting, not the Bayes predictor."""
        return Optimal("gradient-boosting", source="Garg et al. 2022: ahead of the greedy tree")
