"""Theorem 3.2 for one head's dual model: what it promises about new tokens, from what, and the gap that it bounds."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from iclens.bounds import generalization_bounds, measured_gap
from iclens.dual import DualModel
from iclens.errors import UserError
from iclens.kernels import SignedLog

DELTA = 0.05
MOST_RESAMPLES, FEWEST_RESAMPLES = 100, 10
_MOST_WORK = 2e8
"""n_resamples · n_token² · d_v of the measured gap; long prompts are resampled less often, the longest not at all."""

_INGREDIENTS = ("loss", "loss_range", "w_frobenius", "w_spectral", "rho_values", "rho_predictions", "trace", "radius")


def bound_view(dual: DualModel) -> dict[str, Any]:
    """The three forms of the bound on L − L̂ for the trained weights of a head's one query, in ranges of the loss.

    The range is `Bounds.loss_range`, so that a bound of 1 or more is vacuous. The measured gap, in the same units,
    trains on half of the demonstrations and judges on the others: the median over random halves, and its 5 % and 95 %
    quantiles; None with fewer than two demonstrations or too many tokens.

    Args:
        dual: one query, without leading axes.
    """
    try:
        found = generalization_bounds(dual, DELTA)
    except UserError as error:
        return {"problem": str(error)}
    if int(found.n_demonstrations[0]) == 0:
        return {"problem": "the token attends to no demonstration here: there is nothing to bound."}
    unit = found.loss_range
    return {
        "problem": None,
        "delta": found.delta,
        "n_tokens": int(found.n_demonstrations[0]),
        "d_o": dual.v.shape[-1],
        "forms": [
            {
                "name": name,
                "complexity": _ratio(bound.complexity, unit),
                "confidence": _ratio(bound.confidence, unit),
                "gap": _ratio(bound.gap, unit),
                "vacuous": bool(bound.vacuous[0]),
            }
            for name, bound in found.by_name.items()
        ],
        "ingredients": {name: number(getattr(found, name)) for name in _INGREDIENTS},
        "measured": _measured(dual),
    }


def number(value: SignedLog) -> dict[str, float | None]:
    """A number that may leave the range of float64: its value when it does not, and its sign and logarithm."""
    plain, log = float(value.value), float(value.log_abs)
    finite = torch.isfinite(value.value).all().item()
    return {
        "value": plain if finite else None,
        "log_abs": log if log != -torch.inf else None,
        "sign": 1.0 if value.sign is None else float(value.sign),
    }


def _ratio(value: SignedLog, unit: SignedLog) -> dict[str, float | None]:
    return number(SignedLog(value.log_abs - unit.log_abs, value.sign))


def _measured(dual: DualModel) -> dict[str, Any] | None:
    attended = torch.ones(dual.k.shape[-2], dtype=torch.bool) if dual.mask is None else dual.mask[0].cpu()
    own, ids = dual.groups.ids[attended].unique(return_inverse=True)
    ids = ids - int((own < 0).any())
    n_demonstrations = int(ids.max()) + 1
    n_resamples = int(min(MOST_RESAMPLES, _MOST_WORK / (len(ids) ** 2 * dual.v.shape[-1])))
    if n_demonstrations < 2 or n_resamples < FEWEST_RESAMPLES:
        return None
    groups = dataclasses.replace(dual.groups, ids=ids, n_demonstrations=n_demonstrations)
    pool = dataclasses.replace(dual, k=dual.k[attended], v=dual.v[attended], groups=groups, mask=None)
    half = n_demonstrations // 2
    found = measured_gap(pool, half, n_resamples, delta=DELTA)
    unit = found.bounds.loss_range
    gaps = SignedLog(found.gap.log_abs - unit.log_abs, found.gap.sign).value[:, 0]
    bounds = SignedLog(found.bounds.frobenius.gap.log_abs - unit.log_abs).value[:, 0]
    low, median, high = gaps.quantile(gaps.new_tensor([0.05, 0.5, 0.95])).tolist()
    return {
        "n_demonstrations": half,
        "n_held_out": n_demonstrations - half,
        "n_resamples": n_resamples,
        "median": median,
        "low": low,
        "high": high,
        "bound": float(bounds.median()),
        "coverage": float(found.coverage["frobenius"][0]),
    }
