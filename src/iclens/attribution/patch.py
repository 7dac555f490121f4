"""What each demonstration's part of the MLPs' weight updates does to the margin, and how large it is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted

NODES = 4
"""Weights that the derivative is integrated over."""


@ATTRIBUTIONS.register("patch")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """∫₀¹ ∂M/∂w_i (t, …, t) dt, with M the margin of the query alone under patches that hold demonstration i w_i times.

    The patches (`Lens.patches`) stand for the context: with w = 1 the margin is the prompt's own, with w = 0 that of
    the query with no demonstration's part in any block's update or offset. Gauss–Legendre nodes; the scores sum to
    M(1) − M(0) up to their error. One pass over the prompt; then a forward and a backward pass for each node, over the
    tokens alone that stay.

    Source: the patches are Dherin et al. 2025, Theorem 2.2; their parts and the integral are ours (docs/patch.md).
    """
    return counted(lens, lambda: shares(lens))


def shares(lens: Lens, nodes: int = NODES) -> Tensor:
    """Return the scores, integrated over `nodes` weights, in float64."""
    patches = lens.patches()
    places, steps = np.polynomial.legendre.leggauss(nodes)
    total = torch.zeros(lens.n_demonstrations, dtype=torch.float64)
    with lens.passes.stage("patch"):
        for place, step in zip(((places + 1) / 2).tolist(), (steps / 2).tolist(), strict=True):
            total += step * slope(lens, torch.full((lens.n_demonstrations,), place))
            lens.passes.forward_passes += patches.share
            lens.passes.backward_passes += patches.share
    return total


def slope(lens: Lens, weights: Tensor) -> Tensor:
    """∂M/∂w_i at some weights, in float64."""
    given = weights.to(lens.model.device).requires_grad_()
    with torch.enable_grad():
        margin = lens.readouts.margin(lens.patches().logits(given)[None])
        (found,) = torch.autograd.grad(margin.sum(), given)
    return found.double().cpu()


@ATTRIBUTIONS.register("patch_size")
def size(lens: Lens, generator: torch.Generator) -> Scores:
    """Mean over layers of |ΔW_i| / |W| where the answer is read: a size, so that it knows no opposition.

    One pass over the prompt. Source: `iclens.lens.patching`; docs/patch.md.
    """

    def values() -> Tensor:
        patches = lens.patches()
        found = torch.zeros(lens.n_demonstrations, dtype=torch.float64)
        for row in patches.to_rows(patches.read):
            if row["term"] == "part":
                found[row["source"]] += row["size"] / len(patches)
        return found

    return counted(lens, values)
