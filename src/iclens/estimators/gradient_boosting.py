"""A sum of small regression trees, each grown on what the ones before it left over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.points import check_single_range, checked_points
from iclens.estimators.prefix_loop import by_prompt_and_prefix
from iclens.tasks.options import require_counts, require_positive
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.shapes import Inputs, Labels


@ESTIMATORS.register("gradient-boosting")
@dataclass(frozen=True)
class GradientBoosting(Estimator):
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

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:  # noqa: D102
        return self._answers(inputs, labels, None)

    def predict(self, prompt: PromptBatch) -> Float[Tensor, "*batch d_y"]:  # noqa: D102
        return self._answers(prompt.inputs, prompt.labels, [prompt.n_context]).squeeze(-2)

    def _answers(self, inputs: Tensor, labels: Tensor, queries: list[int] | None) -> Tensor:
        from sklearn.ensemble import GradientBoostingRegressor

        ensemble = GradientBoostingRegressor(
            n_estimators=self.n_estimators,
            learning_rate=self.learning_rate,
            max_depth=self.max_depth,
            subsample=self.subsample,
            random_state=self.random_state,
        )

        def answer(xs: np.ndarray, ys: np.ndarray, query: np.ndarray) -> float:
            # It refuses a single point, whose answer is its label.
            return ensemble.fit(xs, ys).predict(query)[0] if len(ys) > 1 else ys[0]

        inputs, labels = checked_points(inputs, labels)
        check_single_range(inputs)
        return by_prompt_and_prefix(answer, inputs, labels, queries)
