"""The best known estimator of a task on the evaluation prompts of a run."""

from __future__ import annotations

import torch

from iclens.estimators.estimator import build_estimator
from iclens.training.config import RunConfig
from iclens.training.losses import point_losses
from iclens.training.prompts import evaluation_prompts


def optimal_errors(config: RunConfig) -> tuple[str, dict[int, float]]:
    """Name of the best known estimator, and its mean squared error for every number of demonstrations.

    In double precision, on the very prompts of the run's evaluation.

    Raises:
        UserError: an unknown task or estimator.
    """
    task = config.make_task()
    optimal = task.optimal()
    prompt = evaluation_prompts(config, task)
    estimator = build_estimator(optimal.estimator, optimal.options)
    with torch.no_grad():
        predictions = estimator.prefixes(prompt.inputs.double(), prompt.labels.double())
    errors = point_losses(predictions, prompt.labels.double(), "squared").mean(0).tolist()
    return optimal.estimator, dict(enumerate(errors))
