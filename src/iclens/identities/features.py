"""Feature maps: Ren & Liu 2024, and what follows from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from iclens.dual import DualModel
from iclens.features import Nystrom, PositiveRandomFeatures, TaylorFeatures
from iclens.identities.checks import Setting, identity, relative, worst
from iclens.identities.heads import random_heads


def _scale(dual: DualModel) -> float:
    """Return the scale of `random_heads`."""
    return float(dual.q.shape[-1]) ** -0.5


def _mask(dual: DualModel) -> Tensor:
    """Return the mask, which `random_heads` always sets."""
    assert dual.mask is not None
    return dual.mask


def _truncated(scores: Tensor, order: int) -> Tensor:
    """T_p(s) = Σ_{m ≤ p} s^m/m!."""
    return torch.stack([scores**m / math.factorial(m) for m in range(order + 1)]).sum(0)


def _with_features(dual: DualModel, phi_q: Tensor, phi_k: Tensor) -> Tensor:
    values = phi_q @ phi_k.mT * _mask(dual)
    return values / values.sum(-1, keepdim=True) @ dual.v


@identity(
    "same-features-random",
    statement="with positive random features, training ends at attention with those features, at any number",
    source="Ren & Liu 2024, kernel features",
    tolerance=1e-11,
    tolerance_single=1e-5,
)
def same_features_random(setting: Setting) -> float:
    """Against the features written out, exponentials and all."""

    def residual(dual: DualModel, n_features: int, orthogonal: bool) -> float:
        features = PositiveRandomFeatures(n_features, orthogonal, setting.seed)
        w, scale = features.directions(dual.q.shape[-1]).to(dual.q), _scale(dual)
        phi_q, phi_k = (
            (x * scale**0.5 @ w.mT - scale * x.square().sum(-1, keepdim=True) / 2).exp() for x in (dual.q, dual.k)
        )
        return relative(
            dual.explicit(features).train(order="sequential").prediction, _with_features(dual, phi_q, phi_k)
        )

    return worst(
        residual(dual, n_features, orthogonal)
        for dual in random_heads(setting, 0.5)
        for n_features in (1, 16, 300)
        for orthogonal in (False, True)
    )


@identity(
    "same-features-taylor",
    statement="with Taylor features of even order, training ends at attention with the truncated exponential",
    source="Ren & Liu 2024, kernel features",
    tolerance=1e-11,
    tolerance_single=5e-5,
)
def same_features_taylor(setting: Setting) -> float:
    """Order 2, against the polynomial of the scores."""

    def residual(dual: DualModel, order: int) -> float:
        scores = dual.q @ dual.k.mT * _scale(dual)
        values = _truncated(scores, order) * _mask(dual)
        expected = values / values.sum(-1, keepdim=True) @ dual.v
        return relative(dual.explicit(TaylorFeatures(order)).train(order="sequential").prediction, expected)

    return worst(residual(dual, 2) for dual in random_heads(setting))


@identity(
    "taylor-remainder",
    statement="|exp(s) − T_p(s)| ≤ e^{max(0,s)}|s|^{p+1}/(p+1)!, and the bound on the output (excess, 0 if none)",
    source="Lagrange; derived, docs/theory/features.md",
    tolerance_single=1e-5,
)
def taylor_remainder(setting: Setting) -> float:
    """Return how far any remainder exceeds its bound."""

    def excess(dual: DualModel, order: int) -> float:
        taylor = TaylorFeatures(order)
        scores = dual.q @ dual.k.mT * _scale(dual)
        remainder = (scores.exp() - _truncated(scores, order)).abs()
        first = (remainder - taylor.remainder_bound(dual.q, dual.k, _scale(dual))) / scores.abs().exp()
        bound = taylor.attention_bound(dual.q, dual.k, dual.v, _scale(dual), dual.mask)
        error = (dual.explicit(taylor).predict() - dual.predict()).norm(dim=-1)
        second = (error - bound) / dual.v.norm(dim=-1).max()
        return max(first.max().item(), second.max().item(), 0.0)

    return worst(excess(dual, 2) for largest in (0.1, 1.0, 3.0) for dual in random_heads(setting, largest))


@identity(
    "nystrom-all-keys",
    statement="Nyström features with every key a landmark are exact for every query (|scores| ≤ 1)",
    source="derived, docs/theory/features.md",
    tolerance=1e-6,
)
def nystrom_all_keys(setting: Setting) -> float:
    """With the pseudo-inverse's default tolerance."""
    return worst(
        relative(dual.explicit(Nystrom(dual.k.shape[-2])).train().prediction, dual.predict())
        for dual in random_heads(setting, 1.0)
    )


@identity(
    "linear-attention",
    statement="linear attention is the dual model with φ = identity and D = 1",
    source="derived, docs/theory/dual-model.md",
    tolerance=1e-11,
    tolerance_single=5e-6,
)
def linear_attention(setting: Setting) -> float:
    """Against (Q Kᵀ) V."""

    def residual(dual: DualModel) -> float:
        expected = (dual.q @ dual.k.mT * _scale(dual) * _mask(dual)) @ dual.v
        return relative(dual.explicit("identity").train(order="sequential").prediction, expected)

    return worst(residual(dual) for dual in random_heads(setting, kernel="linear"))
