"""What scikit-learn's trees and sums of trees share: one model for every prompt, prefix and output."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from iclens.estimators.estimator import Estimator
from iclens.estimators.points import check_single_range, checked_points
from iclens.estimators.prefix_loop import by_prompt_and_prefix
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.shapes import Inputs, Labels


class TreeEstimator(Estimator, abc.ABC):
    """Answers of a scikit-learn regressor, fitted for every prompt, prefix and output by itself; without gradient."""

    @abc.abstractmethod
    def regressor(self) -> Any:
        """Return the regressor, with `fit` and `predict`."""

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:  # noqa: D102
        return self._answers(inputs, labels, None)

    def predict(self, prompt: PromptBatch) -> Float[Tensor, "*batch d_y"]:  # noqa: D102
        return self._answers(prompt.inputs, prompt.labels, [prompt.n_context]).squeeze(-2)

    def _answers(self, inputs: Tensor, labels: Tensor, queries: Iterable[int] | None) -> Tensor:
        regressor = self.regressor()

        def answer(xs: np.ndarray, ys: np.ndarray, query: np.ndarray) -> float:
            # Some refuse a single point, whose answer is its label.
            return regressor.fit(xs, ys).predict(query)[0] if len(ys) > 1 else ys[0]

        inputs, labels = checked_points(inputs, labels)
        check_single_range(inputs)
        return by_prompt_and_prefix(answer, inputs, labels, queries)
