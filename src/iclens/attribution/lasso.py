"""A sparse linear model of the output, fitted on random ablations of the demonstrations."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.lens.lens import Lens
from iclens.lens.read.margin import logit_of
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted

N_ABLATIONS = 64
FEWER = 32
"""What its authors find enough to be ahead of all else; registered with the number in the name."""

ALPHA = 0.01


def fit(
    keep: Bool[Tensor, "n_ablations n_demonstrations"], outputs: Float[Tensor, " n_ablations"], n_tokens: int = 1
) -> Float[Tensor, " n_demonstrations"]:
    """Lasso weights (α = 0.01) on the standardised keep-masks, in units of the outputs.

    Args:
        keep: which demonstrations each ablated prompt had.
        outputs: the model's output for each mask.
        n_tokens: tokens of the answer; outputs are divided by it for the fit, as the published method does.
    """
    import numpy as np
    from sklearn.linear_model import Lasso
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    masks = scaler.fit_transform(keep.cpu().double().numpy())
    model = Lasso(alpha=ALPHA, random_state=0).fit(masks, outputs.cpu().double().numpy() / n_tokens)
    return torch.tensor(np.asarray(model.coef_) / scaler.scale_ * n_tokens, dtype=torch.float64)


def ablations(
    lens: Lens, generator: torch.Generator, n_ablations: int = N_ABLATIONS
) -> Bool[Tensor, "n_ablations n_demonstrations"]:
    """Random subsets, each demonstration kept with probability ½."""
    return torch.stack([torch.rand(lens.n_demonstrations, generator=generator) < 0.5 for _ in range(n_ablations)])


def contextcite(lens: Lens, generator: torch.Generator, n_ablations: int = N_ABLATIONS) -> Scores:
    """Lasso of log(p/(1 − p)) of the answer on random ablations.

    Source: Cohen-Wang, Shah, Georgiev & Madry 2024, "ContextCite: attributing model generation to context",
    section 3: keep-probability ½, α = 0.01, logit-scaled probability of the answer, 64 ablations. With the same
    generator a larger number contains the smaller.
    """
    keep = ablations(lens, generator, n_ablations)
    n_tokens = max(1, len(lens.readout.answer_ids))
    return counted(lens, lambda: fit(keep, logit_of(lens.deletions(keep).log_probabilities.double()), n_tokens))


ATTRIBUTIONS.register("lasso")(contextcite)
ATTRIBUTIONS.register(f"lasso_{FEWER}")(partial(contextcite, n_ablations=FEWER))
