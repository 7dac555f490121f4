"""Shares by two fixed weights: the integral from no demonstration to all by Gauss–Legendre, unchecked."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted


@ATTRIBUTIONS.register("shares_2")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """∫₀¹ ∂M/∂w_i (t, …, t) dt by the weights .21 and .79: four passes, without those that check the sum."""

    def values() -> Tensor:
        nodes, masses = (torch.from_numpy(one) for one in np.polynomial.legendre.leggauss(2))
        weights = ((nodes + 1) / 2)[:, None].expand(-1, lens.n_demonstrations)
        return masses / 2 @ lens.influences(weights)

    return counted(lens, values)
