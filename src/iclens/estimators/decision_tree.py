"""A regression tree, grown greedily."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.points import check_single_range, checked_points
from iclens.estimators.prefix_loop import by_prompt_and_prefix
from iclens.tasks.options import require_counts
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.shapes import Inputs, Labels


@ESTIMATORS.register("decision-tree")
@dataclass(frozen=True)
class DecisionTree(Estimator):
    """ŷ = the mean label of the query's leaf, in scikit-learn's `DecisionTreeRegressor` (CART).

    One tree for every prompt, prefix and output; without gradient.

    Source: Garg et al. 2022, the greedy baseline of their decision trees.

    Attributes:
        max_depth: most splits above a leaf; None for as many as it takes.
        min_samples_leaf: fewest points in a leaf.
        random_state: seed of the choice between equally good splits.

    Raises:
        UserError: an option out of its range.
    """

    max_depth: int | None = None
    min_samples_leaf: int = 1
    random_state: int = 0

    def __post_init__(self) -> None:
        if self.max_depth is not None:
            require_counts(max_depth=self.max_depth)
        require_counts(min_samples_leaf=self.min_samples_leaf)

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:  # noqa: D102
        return self._answers(inputs, labels, None)

    def predict(self, prompt: PromptBatch) -> Float[Tensor, "*batch d_y"]:  # noqa: D102
        return self._answers(prompt.inputs, prompt.labels, [prompt.n_context]).squeeze(-2)

    def _answers(self, inputs: Tensor, labels: Tensor, queries: list[int] | None) -> Tensor:
        from sklearn.tree import DecisionTreeRegressor

        tree = DecisionTreeRegressor(
            max_depth=self.max_depth, min_samples_leaf=self.min_samples_leaf, random_state=self.random_state
        )

        def answer(xs: np.ndarray, ys: np.ndarray, query: np.ndarray) -> float:
            return tree.fit(xs, ys).predict(query)[0]

        inputs, labels = checked_points(inputs, labels)
        check_single_range(inputs)
        return by_prompt_and_prefix(answer, inputs, labels, queries)
