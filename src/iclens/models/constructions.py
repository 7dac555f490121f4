"""Weights written by hand: heads that are a step of gradient descent."""

from __future__ import annotations

import torch
from torch import Tensor

from iclens.models.bare_attention import BareAttention, LinearSelfAttention, SoftmaxHeads


@torch.no_grad()
def gradient_step(d: int, d_y: int, n_context: int, learning_rate: float) -> LinearSelfAttention:
    """Linear self-attention that predicts (η/N) Σ_i y_i ⟨x_i, x⟩: one gradient step from W = 0.

    The step is on L(W) = (1/2N) Σ_i ‖W x_i − y_i‖². W_K = W_Q = diag(I, 0) and P W_V = (η/N) diag(0, I).

    Source: von Oswald et al. 2023, Proposition 1, with W_0 = 0; the sign is turned, since the query's label starts at 0
    and the answer is read without one.

    Args:
        d: width of the inputs.
        d_y: width of the labels.
        n_context: N, the number of demonstrations for which the rate holds.
        learning_rate: η.
    """
    model = LinearSelfAttention(d, d_y, [0])
    of_inputs = torch.cat([torch.ones(d), torch.zeros(d_y)]).diag()
    of_labels = torch.eye(d + d_y) - of_inputs
    _write(model, [of_inputs], [of_inputs], [of_labels], [of_labels * learning_rate / n_context])
    return model


@torch.no_grad()
def debiased_gradient_step(d: int, d_y: int, omega: float, mu: float) -> SoftmaxHeads:
    """Two softmax heads with scores ±ω⟨x_i, x⟩ whose outputs enter with weights ±μ.

    For small ω they predict (2μω/L) Σ_i y_i ⟨x_i − x̄, x⟩ over L demonstrations: a gradient step with centred inputs.

    Source: He et al. 2025.

    Args:
        d: width of the inputs.
        d_y: width of the labels.
        omega: ω.
        mu: μ.
    """
    model = SoftmaxHeads(d, d_y, [0])
    of_inputs = torch.cat([torch.ones(d), torch.zeros(d_y)]).diag()
    of_labels = torch.eye(d + d_y) - of_inputs
    # The attention divides scores by √(head width).
    sharp = omega * (d + d_y) ** 0.5
    queries = [sharp * of_inputs, -sharp * of_inputs]
    _write(model, queries, [of_inputs] * 2, [of_labels] * 2, [mu * of_labels, -mu * of_labels])
    return model


def _write(
    model: BareAttention, queries: list[Tensor], keys: list[Tensor], values: list[Tensor], outputs: list[Tensor]
) -> None:
    weights = dict(model.named_parameters())
    weights["blocks.0.qkv.weight"].copy_(torch.cat([*queries, *keys, *values], 1).unsqueeze(0))
    weights["blocks.0.out.weight"].copy_(torch.cat(outputs, 0).unsqueeze(0))
