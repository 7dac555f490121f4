"""What one layer of linear attention computes, read off its weights."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.models.model import PromptModel


@torch.no_grad()
def symmetric_tensor(model: PromptModel) -> Float[Tensor, "d tokens tokens"]:
    """T with ŷ = Σ_i Σ_abc T_abc x_a e_ib e_ic, for one head on tokens e_i = (x_i, y_i) with one label.

    ŷ = Σ_i (xᵀA e_i)(vᵀe_i) with A the first d rows of W_Q W_Kᵀ and v the label's column of W_V P. Since e_i e_iᵀ is
    symmetric, A_ab v_c is made so in b and c: equal layers have equal T, whatever their weights.
    """
    weights = dict(model.named_parameters())
    query, key, value = weights["blocks.0.qkv.weight"][0].chunk(3, -1)
    scores = (query @ key.mT)[: model.d]
    readout = (value @ weights["blocks.0.out.weight"][0])[:, -1]
    tensor = scores.unsqueeze(-1) * readout
    return (tensor + tensor.mT) / 2


def step_tensor(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d tokens tokens"]:
    """Return the T of ŷ = xᵀM Σ_i x_i y_i, a preconditioned gradient step."""
    d = len(matrix)
    tensor = matrix.new_zeros(d, d + 1, d + 1)
    tensor[:, :d, d] = matrix / 2
    tensor[:, d, :d] = matrix / 2
    return tensor


def step_matrix(model: PromptModel) -> tuple[Float[Tensor, "d d"], float]:
    """Return the M of the preconditioned gradient step that is nearest to a layer, and the cosine of the two T."""
    tensor = symmetric_tensor(model)
    matrix = 2 * tensor[:, : model.d, model.d]
    # What the step has of T is orthogonal to the rest.
    return matrix, float(step_tensor(matrix).norm() / tensor.norm())
