"""The generalisation bound: Ren & Liu 2024, Theorem 3.2, with everything in it measured."""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from iclens.bounds import generalization_bounds, measured_gap, rademacher_complexity
from iclens.dual import DualModel
from iclens.identities.checks import Setting, identity, relative, worst
from iclens.identities.heads import random_heads


@identity(
    "bound-measured",
    statement="w, ‖Ŵ‖₂ and L̂ of the bounds = those of the explicit W; L̂ = (ηD/N) × Theorem 3.1's loss",
    source="derived, docs/theory/bound.md",
    tolerance=1e-6,
    tolerance_single=1e-5,
)
def bound_measured(setting: Setting) -> float:
    """Gram matrices in log space against an explicit W."""

    def residual(dual: DualModel) -> float:
        bounds, W = generalization_bounds(dual), dual.explicit("mercer").train().W
        unit = (-dual.kernel.log_diagonal(dual.q) / 2).exp()
        spectral = torch.linalg.matrix_norm(W, 2) * unit
        loss = dual.loss().after * dual.log_normalizer.exp() / bounds.n_demonstrations
        pairs = ((bounds.w_frobenius, dual.weight_norm()), (bounds.w_spectral, spectral), (bounds.loss, loss))
        return worst(relative(found.value, expected) for found, expected in pairs)

    return worst(residual(dual) for dual in random_heads(setting))


@identity(
    "bound-order",
    statement="2 × Rademacher complexity (drawn) ≤ Frobenius ≤ spectral ≤ printed, first terms (excess of logarithms)",
    source="Ren & Liu 2024, Theorem 3.2; derived, docs/theory/bound.md",
    tolerance=1e-7,
)
def bound_order(setting: Setting) -> float:
    """Up to scores of 1e4, where every exponential overflows: only logarithms are compared."""

    def excess(dual: DualModel) -> float:
        bounds, drawn = generalization_bounds(dual), rademacher_complexity(dual, generator=setting.generator())
        terms = [
            drawn.frobenius.log_abs + math.log(2) - 5 * drawn.relative_error,
            *(bounds.by_name[name].complexity.log_abs for name in ("frobenius", "spectral", "printed")),
        ]
        return max(0.0, *((left - right).max().item() for left, right in pairwise(terms)))

    return worst(excess(dual) for largest in (0.1, 3.0, 1e4) for dual in random_heads(setting, largest))


@identity(
    "bound-holds",
    statement="each bound holds in at least 1 − δ of the resamples (δ = 0.05; shortfall, 0 if none)",
    source="Ren & Liu 2024, Theorem 3.2; derived, docs/theory/bound.md",
    tolerance=0.0,
    tolerance_single=0.0,
)
def bound_holds(setting: Setting) -> float:
    """Three settings of 100 resamples each."""
    generator = setting.generator()
    shortfalls = []
    for n, size in ((5, 0.3), (30, 0.3), (30, 1.0)):
        q, k = (size * setting.randn(generator, m, 8) for m in (2, 200))
        v = k @ setting.randn(generator, 8, 4)
        found = measured_gap(DualModel.from_attention(q, k, v, 200), n, 100, generator=generator)
        shortfalls += [max(0.0, 0.95 - share.min().item()) for share in found.coverage.values()]
    return max(shortfalls)
