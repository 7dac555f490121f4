"""DETAIL: influence functions of a ridge regression from the model's hidden states to the demonstrations' labels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.attribution.shared.label_places import label_places
from iclens.huggingface import implementation
from iclens.lens.lens import Lens
from iclens.lens.model.rotary import forget_longer_prompts
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted

RIDGE = 1.0
DEPTH = 15 / 32
"""The layer whose output is regressed on, as a share of the layers: the published one is 15 of 32."""


def influences(
    states: Float[Tensor, "n d"],
    labels: Float[Tensor, "n n_labels"],
    query: Float[Tensor, " d"],
    answer: Float[Tensor, " n_labels"],
    ridge: float = RIDGE,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Influences of training pairs on a query's loss, and on their own, in closed form.

    With β = (MᵀM + λ)⁻¹ MᵀY and the loss ℓ(m, y) = ½ ‖mᵀβ − y‖² + ½ λ ‖β‖²,
    influence_i = ∇ℓ(query)ᵀ (MᵀM + λ)⁻¹ ∇ℓ(m_i, y_i): positive where more of pair i lowers the query's loss.

    Args:
        states: M, a row for each demonstration.
        labels: Y, one-hot.
        query: the query's state.
        answer: its label, one-hot.
        ridge: λ > 0.

    Returns:
        Influences on the query's loss and self-influences.

    Source: Zhou, Lin, Xu et al. 2024, "DETAIL: Task DEmonsTration Attribution for Interpretable In-context Learning",
    section 4.
    """
    m, y = states.double(), labels.double()
    hessian = m.T @ m + ridge * torch.eye(m.shape[1], dtype=torch.float64)
    factor = torch.linalg.cholesky(hessian)
    beta = torch.cholesky_solve(m.T @ y, factor)

    def gradient(rows: Tensor, wanted: Tensor) -> Tensor:
        return rows[:, :, None] * (rows @ beta - wanted)[:, None, :] + ridge * beta

    of_pairs = gradient(m, y)
    of_query = gradient(query.double()[None], answer.double()[None])[0]
    moved = torch.cholesky_solve(of_pairs.permute(1, 0, 2).flatten(1), factor)
    moved = moved.unflatten(1, (len(m), -1)).permute(1, 0, 2)
    return (moved * of_query).sum((1, 2)), (moved * of_pairs).sum((1, 2))


def detail(lens: Lens) -> tuple[Float[Tensor, " n_demonstrations"], Float[Tensor, " n_demonstrations"]]:
    """`influences` on the states at the token before each label, in the middle layer; one forward pass.

    Raises:
        UserError: a label of a demonstration is not known.
    """
    tokenized, model = lens.tokenized, lens.model
    answer = lens.readout.answer.strip()
    before = [place[0] - 1 for place in label_places(tokenized)]
    forget_longer_prompts(model)
    lens.passes.forward_passes += 1
    with torch.no_grad(), implementation(model.model, None):
        out = model.model(
            input_ids=tokenized.input_ids[None].to(model.device), output_hidden_states=True, use_cache=False
        )
    states = out.hidden_states[round(DEPTH * model.n_layers)][0].cpu()
    given = [str(label).strip() for label in tokenized.prompt.labels]
    known = list(dict.fromkeys([*given, answer]))
    one_hot = torch.eye(len(known), dtype=torch.float64)
    return influences(
        states[before], one_hot[[known.index(label) for label in given]], states[-1], one_hot[known.index(answer)]
    )


@ATTRIBUTIONS.register("detail")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """The influence of each demonstration on the loss of the query's answer."""
    return counted(lens, lambda: detail(lens)[0])


@ATTRIBUTIONS.register("detail_self")
def score_self(lens: Lens, generator: torch.Generator) -> Scores:
    """Minus the self-influence: demonstrations that the regression cannot explain come last."""
    return counted(lens, lambda: -detail(lens)[1])
