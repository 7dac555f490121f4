"""The mean of the labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.points import checked_points
from iclens.tasks.shapes import Inputs, Labels


@ESTIMATORS.register("mean")
@dataclass(frozen=True)
class Mean(Estimator):
    """ŷ = (1/n) Σ_i y_i, whatever the query.

    All prefixes: one cumulative sum, O(n) for a prompt of n points.
    """

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:  # noqa: D102
        inputs, labels = checked_points(inputs, labels)
        before = labels.cumsum(-2).roll(1, -2)
        counts = torch.arange(labels.shape[-2], dtype=labels.dtype, device=labels.device).unsqueeze(-1)
        return torch.where(counts == 0, 0.0, before) / counts.clamp_min(1)
