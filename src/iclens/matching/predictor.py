"""A common face of models and estimators: points and labels in, answers to the prefixes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.estimators.estimator import Estimator
from iclens.models.model import PromptModel
from iclens.tasks.prompt_batch import PromptBatch

Predictor: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Inputs (batch, n_points, d) and labels (batch, n_points, d_y) to answers (batch, n_answers, d_y)"""


def of_model(model: PromptModel) -> Predictor:
    """Return the answers of a model with one run; all prefixes, or the query only."""

    def answers(inputs: Tensor, labels: Tensor) -> Tensor:
        return model(inputs.unsqueeze(0), labels.unsqueeze(0))[0]

    return answers


def of_estimator(estimator: Estimator) -> Predictor:
    """Return the answers of an estimator to all prefixes."""
    return estimator.prefixes


def at_queries(
    predictor: Predictor, prompt: PromptBatch, queries: Float[Tensor, "batch n_queries d"]
) -> Float[Tensor, "batch n_queries d_y"]:
    """Answers at many queries, each asked alone with all demonstrations of its prompt."""
    batch, n_queries = queries.shape[:2]
    context = prompt.xs.unsqueeze(1).expand(-1, n_queries, -1, -1)
    inputs = torch.cat([context, queries.unsqueeze(2)], 2).flatten(0, 1)
    # The query's label is not known, and nothing may depend on it.
    labels = torch.cat([prompt.ys, torch.zeros_like(prompt.labels[:, :1])], 1)
    labels = labels.unsqueeze(1).expand(-1, n_queries, -1, -1).flatten(0, 1)
    return predictor(inputs, labels)[:, -1].unflatten(0, (batch, n_queries))
