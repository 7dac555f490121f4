"""The average of y x as weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.points import checked_points
from iclens.tasks.shapes import Inputs, Labels


@ESTIMATORS.register("averaging")
@dataclass(frozen=True)
class Averaging(Estimator):
    """ŷ = wᵀx with w = (1/n) Σ_i y_i x_i, an unbiased guess of the weights when x ~ N(0, I).

    It is one step of gradient descent at rate 1. All prefixes: O(n² d), two products of matrices.

    Source: Garg et al. 2022, baseline of their linear tasks.
    """

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:  # noqa: D102
        inputs, labels = checked_points(inputs, labels)
        counts = torch.arange(labels.shape[-2], dtype=labels.dtype, device=labels.device).unsqueeze(-1)
        return (inputs @ inputs.mT).tril(-1) @ labels / counts.clamp_min(1)
