"""A finished run as a regressor of scikit-learn: `fit` takes the demonstrations, `predict` answers queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from iclens.errors import UserError
from iclens.scikit_learn.in_context import InContextEstimator


class InContextRegressor(RegressorMixin, InContextEstimator):
    """ŷ(x) = model((x_1, y_1) … (x_n, y_n), x): the run's answer to a query after the demonstrations given to `fit`.

    Nothing is trained: `fit` checks and keeps the context. `predict` answers all queries, each in a prompt of its own,
    in batches and in float64, so that an answer does not depend on the other queries. Where the labels have several
    columns and the run was trained for one, every column has a prompt of its own.

    A run knows the scales that it was trained on: put a `StandardScaler` before it, and a `TransformedTargetRegressor`
    around it, if your data have others.

    Args:
        run: what `train` gave, a run of a store (`store.load(key)`), or the folder of one: `STORE/runs/KEY`, or a store
            that holds a single run.
        pad: whether inputs with fewer features than the run's get zeros for the others, as in a curriculum over
            dimensions; if not, they are refused.
        device: where answers are computed: `cpu`, or `cuda`.

    Attributes:
        n_features_in_: width of the inputs given to `fit`.
        feature_names_in_: their names, where they had any.
        X_: the demonstrations' inputs, (n, n_features_in_).
        y_: their labels, (n,) or (n, n_outputs).
        model_: the run's model, in float64.
        config_: its configuration.

    Raises:
        UserError: on `fit`: no such run, one that diverged or was trained on classes, inputs of another width, another
            number of outputs, or more demonstrations than the model has positions for.

    Warns:
        UnseenLengthWarning: on `fit`: a number of demonstrations that the run was not trained on.
    """

    losses: ClassVar[Mapping[str, str]] = {
        "cross-entropy": "its labels are classes, which InContextClassifier takes; a regressor needs 'squared'"
    }

    def fit(self, X: Any, y: Any) -> InContextRegressor:
        """Keep the demonstrations, after which every query is answered; nothing is trained.

        Args:
            X: inputs of the demonstrations, (n, n_features).
            y: their labels, (n,) or (n, n_outputs).
        """
        inputs, labels = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        self._keep(inputs)
        n_outputs = 1 if labels.ndim == 1 else labels.shape[1]
        if self.model_.d_y not in (1, n_outputs):
            raise UserError(
                f"the run was trained for {self.model_.d_y} outputs, and the columns of y are {n_outputs}: give as "
                "many."
            )
        self.y_ = labels.astype(np.float64)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Answer each query after the whole context, in a prompt of its own.

        Args:
            X: the queries, (m, n_features_in_).

        Returns:
            the answers, (m,) or (m, n_outputs), as `y` was.

        Raises:
            UserError: answers that are not finite, because numbers are too large for the model.
        """
        check_is_fitted(self)
        labels = self.y_.reshape(len(self.y_), -1)
        # All outputs in one prompt, or every output in its own.
        parts = [labels] if self.model_.d_y == labels.shape[1] else list(labels.T[..., None])
        answers = np.concatenate([self._asked(X, part) for part in parts], -1)
        return answers.reshape(len(answers), *self.y_.shape[1:])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
