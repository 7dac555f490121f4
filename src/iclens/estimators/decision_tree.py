"""A regression tree, grown greedily."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iclens.estimators.estimator import ESTIMATORS
from iclens.estimators.trees import TreeEstimator
from iclens.tasks.options import require_counts


@ESTIMATORS.register("decision-tree")
@dataclass(frozen=True)
class DecisionTree(TreeEstimator):
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

    def regressor(self) -> Any:  # noqa: D102
        from sklearn.tree import DecisionTreeRegressor

        return DecisionTreeRegressor(**self.get_params())
