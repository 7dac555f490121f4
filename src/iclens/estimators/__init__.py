"""Answers to the same prompts by known algorithms."""

from iclens.estimators.estimator import ESTIMATORS, Estimator, build_estimator
from iclens.estimators.points import Features, checked_points
from iclens.estimators.prefix_loop import by_prefix, by_prompt_and_prefix

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "Features",
    "build_estimator",
    "by_prefix",
    "by_prompt_and_prefix",
    "checked_points",
]
