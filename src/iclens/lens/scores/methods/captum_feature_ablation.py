"""Captum's feature ablation: each demonstration's tokens replaced by a neutral token in turn."""

from __future__ import annotations

import torch

from iclens.lens.scores.methods.method import ATTRIBUTIONS, Problem, Scores
from iclens.lens.scores.methods.replacement import attribute


@ATTRIBUTIONS.register("captum_feature_ablation")
def score(problem: Problem, generator: torch.Generator) -> Scores:
    """The margin minus the margin with the demonstration's tokens replaced, by `captum.attr.FeatureAblation`.

    Raises:
        UserError: Captum is not installed.
    """
    return attribute(problem, "captum_feature_ablation", lambda captum: captum.FeatureAblation)
