"""Captum's feature ablation: each demonstration's tokens replaced by a neutral token in turn."""

from __future__ import annotations

import torch

from iclens.attribution.shared.replacement import attribute
from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores


@ATTRIBUTIONS.register("captum_feature_ablation")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """The margin minus the margin with the demonstration's tokens replaced, by `captum.attr.FeatureAblation`.

    Raises:
        UserError: Captum is not installed.
    """
    return attribute(lens, "captum_feature_ablation", lambda captum: captum.FeatureAblation)
