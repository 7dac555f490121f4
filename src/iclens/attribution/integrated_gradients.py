"""Integrated gradients along the straight line from zero embeddings."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iclens.attribution.gradient_x_input import embeddings, margins_at
from iclens.lens.lens import Lens
from iclens.lens.model.placed import doubled
from iclens.lens.scores.method import ATTRIBUTIONS, Scores

N_STEPS = 50


def integrate(
    lens: Lens, n_steps: int = N_STEPS, baseline: Float[Tensor, "n width"] | None = None
) -> Float[Tensor, " n"]:
    """Each token's share of margin(embeddings) − margin(baseline).

    (x_i − b_i) ∫₀¹ ∂ margin(b + t (x − b))/∂ x_i dt by Gauss–Legendre quadrature; positions stay. The shares sum to the
    difference up to the quadrature's error.

    Args:
        lens: the prompt and its margin.
        n_steps: nodes of the quadrature.
        baseline: embeddings b to start from; zeros by default.

    Source: Sundararajan, Taly & Yan 2017, equation 1.
    """
    inputs = embeddings(lens)
    start = torch.zeros_like(inputs) if baseline is None else baseline
    line = inputs - start
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)
    times = torch.tensor((nodes + 1) / 2).to(inputs)
    shares = doubled(inputs.new_zeros(len(inputs)))
    at_once = max(1, lens.passes.most_tokens // len(inputs))
    for some, mass in zip(times.split(at_once), torch.tensor(weights / 2).split(at_once), strict=True):
        points = (start + some[:, None, None] * line).requires_grad_()
        with torch.enable_grad():
            (gradients,) = torch.autograd.grad(margins_at(lens, points).sum(), points)
        lens.passes.backward_passes += len(points)
        shares += torch.einsum("t,tnd,nd->n", mass.to(shares.device), doubled(gradients), doubled(line))
    return shares


@ATTRIBUTIONS.register("integrated_gradients")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """Integrated gradients of a demonstration's tokens, from zero embeddings in 50 steps."""
    return Scores(lens.by_demonstration(integrate(lens)), float(N_STEPS), float(N_STEPS))
