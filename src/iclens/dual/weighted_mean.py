"""Attention as a weighted mean: how much its values disagree, and what it would be without one of them.

Source: attention as Nadaraya-Watson regression (2501.12352); the closed forms are derived in
docs/theory/trained-to-the-end.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.dual.inputs import refuse_empty_rows
from iclens.dual.model import DualModel
from iclens.dual.training_weights import of_keys
from iclens.errors import UserError


class Disagreement(NamedTuple):
    """How much the values disagree that a query averages.

    Attributes:
        total: Σ_i α_i ‖v_i − out‖², the least that any one answer b leaves of Σ_i α_i ‖v_i − b‖²; in squared units of
            the values, (..., n_query).
        relative: total / Σ_i α_i ‖v_i‖² = 1 − ‖out‖²/Σ_i α_i ‖v_i‖², in [0, 1]: 0 where all say the same, 1 where they
            cancel; 0 where all values are zero, (..., n_query).
    """

    total: Float[Tensor, "*batch n_query"]
    relative: Float[Tensor, "*batch n_query"]


def disagreement(dual: DualModel) -> Disagreement:
    """Measure how far the values that a query averages are from their mean.

    The output is argmin_b Σ_i α_i ‖v_i − b‖² with α the attention weights; the minimum is the disagreement.

    Raises:
        UserError: the kernel does not normalise, so that the output is no mean.
    """
    _require_mean(dual)
    weights, v, out = dual.coefficients, dual.v, dual.predict()
    apart = (v.unsqueeze(-3) - out.unsqueeze(-2)).square().sum(-1)
    total = (weights * apart).sum(-1)
    size = (weights * v.square().sum(-1).unsqueeze(-2)).sum(-1)
    return Disagreement(total, torch.where(size > 0, total / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0))


def leave_one_out(dual: DualModel) -> Float[Tensor, "*batch n_query n_key d_v"]:
    """v_i − out_{−i} of every key, in closed form: (v_i − out)/(1 − α_i).

    out_{−i} is the exact output without key i, D recomputed, and α_i (v_i − out)/(1 − α_i) = out − out_{−i} is what key
    i does to the output. It is in units of the values, and zero for keys that the query may not attend to. The key of
    most weight is left out by its scores, since 1 − α loses its digits as α → 1.

    Raises:
        UserError: the kernel does not normalise, or a query attends to fewer than two keys.
    """
    _require_mean(dual)
    weights, v = dual.coefficients, dual.v
    counts = None if dual.training_weights is None else of_keys(dual.training_weights, dual.groups)
    seen = torch.ones_like(weights, dtype=torch.bool)
    seen = seen if dual.mask is None else seen & dual.mask
    counting = seen if counts is None else seen & (counts > 0)
    heaviest = torch.zeros_like(seen).scatter(-1, weights.argmax(-1, keepdim=True), True)
    refuse_empty_rows(counting & ~heaviest, "but one")
    rest = dual.kernel.coefficients(dual.q, dual.k, counting & ~heaviest, counts)[0] @ v
    apart = v.unsqueeze(-3) - dual.predict().unsqueeze(-2)
    others = (1 - weights).clamp_min(torch.finfo(weights.dtype).eps).unsqueeze(-1)
    found = torch.where(heaviest.unsqueeze(-1), v.unsqueeze(-3) - rest.unsqueeze(-2), apart / others)
    return torch.where(seen.unsqueeze(-1), found, 0.0)


def _require_mean(dual: DualModel) -> None:
    if not dual.kernel.normalizes:
        raise UserError(
            f"the {type(dual.kernel).__name__} does not normalise: its output is no mean of the values, and has no "
            "disagreement."
        )
