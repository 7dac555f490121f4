"""The best known estimator of a task on the evaluation prompts of a run."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from iclens.estimators.estimator import build_estimator
from iclens.training.config import RunConfig
from iclens.training.losses import point_losses
from iclens.training.prompts import evaluation_prompts


def optimal_errors(config: RunConfig, seconds: float = 20.0) -> tuple[str, dict[int, float], int]:
    """Name of the best known estimator, its mean squared error for every number of demonstrations, and on how many.

    In double precision, on the very prompts of the run's evaluation: on all of them, unless that takes too long (an
    ensemble of trees is fitted again for every prefix of every prompt).

    Args:
        config: of the run.
        seconds: start no further prompts after that.

    Returns:
        the name, the errors by number of demonstrations, and the number of prompts.

    Raises:
        UserError: an unknown task or estimator.
    """
    task = config.make_task()
    optimal = task.optimal()
    prompt = evaluation_prompts(config, task)
    inputs, labels = prompt.inputs.double(), prompt.labels.double()
    estimator = build_estimator(optimal.estimator, optimal.options)
    started, errors, size = time.perf_counter(), list[Tensor](), 1
    while (done := sum(map(len, errors))) < len(inputs):
        if errors and time.perf_counter() - started > seconds:
            break
        part = slice(done, done + size)
        with torch.no_grad():
            predictions = estimator.prefixes(inputs[part], labels[part])
        errors.append(point_losses(predictions, labels[part], "squared"))
        size *= 2
    return optimal.estimator, dict(enumerate(torch.cat(errors).mean(0).tolist())), done
