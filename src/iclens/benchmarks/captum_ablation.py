"""Captum's feature ablation of the demonstrations of a text, as its user would write it."""

from __future__ import annotations

import torch
from torch import Tensor

from iclens.benchmarks.few_shot import answer_ids, groups_of
from iclens.lens import LensModel


def feature_ablation(lens_model: LensModel, prompt: str) -> Tensor:
    """Score every demonstration by what replacing its tokens by token 0 takes from the margin of the first answer.

    One forward pass with all demonstrations and one without each, a prompt at a time, last token's logits only.

    Returns:
        the scores (n_demonstrations,), in nats.
    """
    import captum.attr

    ids, groups = groups_of(prompt, lens_model.tokenizer)
    first, second = answer_ids(prompt, lens_model.tokenizer)
    # The rest of the prompt stays, so that Captum spends nothing on it.
    inside = groups >= 0

    @torch.no_grad()
    def margins(some: Tensor) -> Tensor:
        rows = ids.repeat(len(some), 1)
        rows[:, inside] = some
        logits = lens_model.model(input_ids=rows, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits[:, first] - logits[:, second]

    tokens, features = ids[inside][None], groups[inside][None]
    values = captum.attr.FeatureAblation(margins).attribute(
        tokens, baselines=0, feature_mask=features, perturbations_per_eval=1
    )
    # Captum writes a demonstration's score on each of its tokens.
    scores = torch.zeros(int(groups.max()) + 1)
    scores[features[0]] = values[0].to(scores)
    return scores
