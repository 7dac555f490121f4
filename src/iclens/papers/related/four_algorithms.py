"""Four exact predictors of the next state of a Markov chain, and the mixture of them that is nearest to a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iclens.estimators.estimator import build_estimator
from iclens.tasks.markov_chains import MarkovChains
from iclens.tasks.prompt_batch import PromptBatch
from iclens.training.default_dtype import default_dtype

ALGORITHMS = ("unigram inference", "unigram retrieval", "bigram inference", "bigram retrieval")


def predictions(task: MarkovChains, prompt: PromptBatch) -> dict[str, Float[Tensor, "batch n_points n_states"]]:
    """Return what the four algorithms say at every point, for a run on this task."""
    with default_dtype(torch.float64):
        chains = task.chains
    options: dict[str, dict[str, Any]] = {
        "inference": {"concentration": task.concentration},
        "retrieval": {"chains": chains},
    }
    return {
        name: build_estimator(name.replace(" ", "-"), options[name.split()[1]]).prefixes(prompt.inputs, prompt.labels)
        for name in ALGORITHMS
    }


def divergence(theirs: Float[Tensor, "*n n_states"], log_ours: Float[Tensor, "*n n_states"]) -> float:
    """Return the mean of Σ p log(p/q), p the predictor's probabilities and q the model's, in nats."""
    return float((torch.special.xlogy(theirs, theirs) - theirs * log_ours).sum(-1).mean())


def mixture_weights(
    said: Mapping[str, Float[Tensor, "*n n_states"]], answers: Float[Tensor, "*n n_states"]
) -> Float[np.ndarray, " n_algorithms"]:
    """Return the weights, not negative and of sum 1, of the mixture that is nearest to the answers in squares."""
    from scipy.optimize import nnls

    columns = torch.stack([one.flatten() for one in said.values()], -1).numpy()
    # One heavy row holds the sum at 1.
    heavy = 1e3 * len(columns) ** 0.5
    weights, _ = nnls(np.vstack([columns, np.full((1, columns.shape[1]), heavy)]), [*answers.flatten().tolist(), heavy])
    return weights


def explained_share(
    said: Mapping[str, Float[Tensor, "batch n_points n_states"]], answers: Float[Tensor, "batch n_points n_states"]
) -> float:
    """Return 1 − Σ(q − Σ_a w_a p_a)² / Σ(q − 1/k)² on the second half of the prompts, with w fitted to the first."""
    half = len(answers) // 2
    weights = mixture_weights({name: one[:half] for name, one in said.items()}, answers[:half])
    rest = answers[half:]
    mixed = sum(weight * one[half:] for weight, one in zip(weights.tolist(), said.values(), strict=True))
    return 1 - float((rest - mixed).square().sum() / (rest - 1 / rest.shape[-1]).square().sum())
