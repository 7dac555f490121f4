"""Finished runs as estimators of scikit-learn; kept apart, because their classes cannot be made without it."""

from iclens.scikit_learn.classifier import InContextClassifier
from iclens.scikit_learn.in_context import UnseenLengthWarning
from iclens.scikit_learn.regressor import InContextRegressor

__all__ = ["InContextClassifier", "InContextRegressor", "UnseenLengthWarning"]
