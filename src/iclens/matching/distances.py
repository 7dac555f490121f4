"""How far two algorithms are apart: in their predictions, their implied weights, their sensitivities."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from iclens.errors import UserError
from iclens.matching.predictor import Predictor, at_queries
from iclens.tasks.prompt_batch import PromptBatch


def squared_prediction_difference(
    one: Float[Tensor, "batch n_answers d_y"], other: Float[Tensor, "batch n_answers d_y"]
) -> Float[Tensor, "batch n_answers"]:
    """‖A_1(D)(x') − A_2(D)(x')‖² of every prompt and answer; its mean is SPD.

    Source: Akyürek et al. 2022, SPD(A_1, A_2) = E (A_1(D)(x') − A_2(D)(x'))².
    """
    return (one - other).square().sum(-1)


def implied_weights(
    predictor: Predictor, prompt: PromptBatch, queries: Float[Tensor, "batch n_queries d"]
) -> tuple[Float[Tensor, "batch d d_y"], Float[Tensor, " batch"]]:
    """The linear function nearest to an algorithm's answers to one set of demonstrations, and how much it explains.

    ŵ(D) = argmin_w Σ_j ‖A(D)(x'_j) − wᵀx'_j‖² over many queries x'_j; beside it R² = 1 − Σ_j ‖A − wᵀx'‖² / Σ_j ‖A‖²,
    1 for an algorithm that is linear in the query.

    Source: Akyürek et al. 2022.

    Args:
        predictor: the algorithm.
        prompt: the demonstrations; (batch, ...).
        queries: more than d of them for every prompt.

    Raises:
        UserError: fewer queries than d.
    """
    if queries.shape[1] < queries.shape[2]:
        raise UserError(
            f"implied weights of width {queries.shape[2]} need at least as many queries, not {queries.shape[1]}."
        )
    answers = at_queries(predictor, prompt, queries)
    weights = torch.linalg.lstsq(queries, answers, driver="gelsd" if queries.device.type == "cpu" else None).solution
    left = (answers - queries @ weights).square().sum((1, 2))
    return weights, 1 - left / answers.square().sum((1, 2)).clamp_min(torch.finfo(answers.dtype).tiny)


def implied_weight_difference(
    one: Float[Tensor, "batch d d_y"], other: Float[Tensor, "batch d d_y"]
) -> Float[Tensor, " batch"]:
    """‖ŵ_{A_1} − ŵ_{A_2}‖² of every prompt; its mean is ILWD.

    Source: Akyürek et al. 2022, ILWD = E ‖ŵ_{A_1} − ŵ_{A_2}‖².
    """
    return (one - other).square().sum((1, 2))


def sensitivity(predictor: Predictor, prompt: PromptBatch) -> Float[Tensor, "batch d_y d"]:
    """∂ŷ/∂x of the answer at the query with respect to the query's input; zeros for a step function.

    Source: von Oswald et al. 2023, who compare it between a trained model and gradient descent.
    """
    rows = []
    query = prompt.inputs[:, -1:].detach().clone().requires_grad_()
    labels = torch.cat([prompt.ys, torch.zeros_like(prompt.labels[:, :1])], 1)
    answers = predictor(torch.cat([prompt.xs, query], 1), labels)[:, -1]
    if not answers.requires_grad:
        # Constant between its jumps, as a mean or a tree is.
        return query.detach().expand(-1, answers.shape[-1], -1) * 0
    for output in range(answers.shape[-1]):
        (row,) = torch.autograd.grad(answers[:, output].sum(), query, retain_graph=True, allow_unused=True)
        rows.append(torch.zeros_like(query)[:, 0] if row is None else row[:, 0])
    return torch.stack(rows, 1)


def alignment(one: Float[Tensor, "batch d_y d"], other: Float[Tensor, "batch d_y d"]) -> Float[Tensor, " batch"]:
    """Cosine of two sensitivities, from −1 to 1; NaN where one of them is zero."""
    one, other = one.flatten(1), other.flatten(1)
    cosines = cosine_similarity(one, other, dim=1, eps=0.0)
    undefined = (one.norm(dim=1) == 0) | (other.norm(dim=1) == 0)
    return cosines.masked_fill(undefined, torch.nan)
