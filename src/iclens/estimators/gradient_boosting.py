"""A sum of small regression trees, each grown on what the ones before it left over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iclens.errors import UserError
from iclens.estimators.estimator import ESTIMATORS
from iclens.estimators.trees import TreeEstimator
from iclens.tasks.options import require_counts, require_positive


@ESTIMATORS.register("gradient-boosting")
@dataclass(frozen=True)
class GradientBoosting(TreeEstimator):
    """ŷ of scikit-learn's `GradientBoostingRegressor` with squared error.

    One ensemble for every prompt, prefix and output, so slow: some 50 ms for each; without gradient.

    Source: Garg et al. 2022, who used XGBoost, another implementation with other defaults.

    Attributes:
        n_estimators: number of trees.
        learning_rate: factor of every tree, positive.
        max_depth: most splits above a leaf.
        subsample: share of the points that a tree sees, in (0, 1].
        random_state: seed.

    Raises:
        UserError: an option out of its range.
    """

    n_estimators: int = 100
    learning_rate: float = 0.1
    max_depth: int = 3
    subsample: float = 1.0
    random_state: int = 0

    def __post_init__(self) -> None:
        require_positive(learning_rate=self.learning_rate)
        require_counts(n_estimators=self.n_estimators, max_depth=self.max_depth)
        if not 0 < self.subsample <= 1:
            raise UserError(f"subsample={self.subsample} must be above 0 and at most 1.")

    def regressor(self) -> Any:  # noqa: D102
        from sklearn.ensemble import GradientBoostingRegressor

        return GradientBoostingRegressor(**self.get_params())
