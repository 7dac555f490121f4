"""Captum's feature ablation of the demonstrations of a text, as its user would write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from iclens.benchmarks.few_shot import answer_ids, groups_of
from iclens.lens import LensModel


def feature_ablation(lens_model: LensModel, prompt: str) -> Tensor:
    """Score every demonstration by what replacing its tokens by token 0 takes from the margin of the first answer.

    One forward pass with all demonstrations and one without each, a prompt at a time, last token's logits only.

    Returns:
        the scores (n_demonstrations,), in nats.
    """
    ids, groups = groups_of(prompt, lens_model.tokenizer)
    first, second = answer_ids(prompt, lens_model.tokenizer)

    @torch.no_grad()
    def margins(rows: Tensor) -> Tensor:
        logits = lens_model.model(input_ids=rows, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits[:, first] - logits[:, second]

    return perturbed("FeatureAblation", ids, groups, margins)()


def perturbed(
    method: str,
    ids: Int[Tensor, " n"],
    groups: Int[Tensor, " n"],
    margins: Callable[[Tensor], Tensor],
    at_once: int = 1,
    **options: Any,
) -> Callable[[], Tensor]:
    """Make the call of a perturbation method of Captum on the demonstrations' tokens: the rest of the prompt stays.

    Args:
        method: a class of `captum.attr`.
        ids: the prompt's tokens.
        groups: the demonstration of each, −1 for the rest.
        margins: prompts (batch, n) to their margins (batch,).
        at_once: perturbed prompts of a batch.
        options: of the method's `attribute`.
    """
    import captum.attr

    inside = groups >= 0
    tokens, features = ids[inside][None], groups[inside][None]

    def of_demonstrations(some: Tensor) -> Tensor:
        rows = ids.repeat(len(some), 1)
        rows[:, inside] = some
        return margins(rows)

    attribution = getattr(captum.attr, method)(of_demonstrations)

    def call() -> Tensor:
        values = attribution.attribute(
            tokens, baselines=0, feature_mask=features, perturbations_per_eval=at_once, **options
        )
        # Captum writes a demonstration's score on each of its tokens.
        scores = torch.zeros(int(groups.max()) + 1)
        scores[features[0]] = values[0].to(scores)
        return scores

    return call
