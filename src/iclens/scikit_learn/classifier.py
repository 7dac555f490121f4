"""A finished run as a classifier of scikit-learn: `fit` takes the demonstrations, `predict` names classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from scipy.special import softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from iclens.errors import UserError
from iclens.scikit_learn.in_context import InContextEstimator


class InContextClassifier(ClassifierMixin, InContextEstimator):
    """The class whose label the run answers a query with, after the demonstrations given to `fit`.

    The classes of `y` in sorted order are the run's labels 1, 2, …, one-hot, as its task draws them; labels beyond them
    stay unused. Nothing is trained: `fit` checks and keeps the context.

    Args:
        run: what `train` gave, a run of a store (`store.load(key)`), or the folder of one: `STORE/runs/KEY`, or a store
            that holds a single run. Its task must have one-hot labels, such as `clusters` or `digits`.
        pad: whether inputs with fewer features than the run's get zeros for the others; if not, they are refused.
        device: where answers are computed: `cpu`, or `cuda`.

    Attributes:
        classes_: the classes of `y`, sorted.
        n_features_in_: width of the inputs given to `fit`.
        feature_names_in_: their names, where they had any.
        X_: the demonstrations' inputs, (n, n_features_in_).
        y_: the indices of their classes, (n,).
        model_: the run's model, in float64.
        config_: its configuration.

    Raises:
        UserError: on `fit`: no such run, one that diverged, inputs of another width, more classes than the run has
            labels, or more demonstrations than the model has positions for.

    Warns:
        UnseenLengthWarning: on `fit`: a number of demonstrations that the run was not trained on.
    """

    losses: ClassVar[Mapping[str, str]] = {}

    def fit(self, X: Any, y: Any) -> InContextClassifier:
        """Keep the demonstrations, after which every query is answered; nothing is trained.

        Args:
            X: inputs of the demonstrations, (n, n_features).
            y: their classes, (n,).
        """
        inputs, given = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(given)
        classes, labels = np.unique(given, return_inverse=True)
        self._keep(inputs)
        if len(classes) > self.model_.d_y:
            raise UserError(f"y has {len(classes)} classes, and the run was trained on {self.model_.d_y} labels.")
        self.classes_, self.y_ = classes, labels
        return self

    def predict_proba(self, X: Any) -> Float[np.ndarray, "m n_classes"]:
        """Return the probabilities of the classes.

        After training with the cross-entropy they are the softmax of the answers for the classes of `y`; after training
        with the squared error, whose answers estimate probabilities, these answers, cut at 0 and made to add up to 1.

        Args:
            X: the queries, (m, n_features_in_).

        Raises:
            UserError: answers that are not finite, because numbers are too large for the model.
        """
        check_is_fitted(self)
        answers = self._asked(X, np.eye(self.model_.d_y)[self.y_])[:, : len(self.classes_)]
        if self.config_.training.loss_kind == "cross-entropy":
            return softmax(answers, -1)
        # A little more than 0, so that they add up to something.
        cut = answers.clip(1e-12)
        return cut / cut.sum(-1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the class of the largest probability.

        Args:
            X: the queries, (m, n_features_in_).
        """
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(-1)]
