"""Gradient times input: the margin's gradient at the token embeddings, times the embeddings."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.lens.model.rotary import forget_longer_prompts
from iclens.lens.scores.methods.method import ATTRIBUTIONS, Problem, Scores, by_demonstration


def embeddings(problem: Problem) -> Float[Tensor, "n width"]:
    """The token embeddings of the prompt, without positions."""
    ids = problem.input_ids.to(problem.lens_model.device)
    return problem.lens_model.model.get_input_embeddings()(ids).detach()


def margins_at(problem: Problem, inputs: Float[Tensor, "batch n width"]) -> Float[Tensor, " batch"]:
    """The margin when the token embeddings are `inputs`; differentiable in them."""
    keep = torch.tensor(problem.readout.positions, device=inputs.device)
    forget_longer_prompts(problem.lens_model)
    logits = problem.lens_model.model(inputs_embeds=inputs, logits_to_keep=keep, use_cache=False).logits
    return problem.readout.margin(logits)


@ATTRIBUTIONS.register("gradient_x_input")
def score(problem: Problem, generator: torch.Generator) -> Scores:
    """⟨∂ margin/∂ embedding, embedding⟩, summed over a demonstration's tokens."""
    inputs = embeddings(problem)[None].requires_grad_()
    (gradient,) = torch.autograd.grad(margins_at(problem, inputs).sum(), inputs)
    return Scores(by_demonstration((gradient * inputs).sum(-1)[0], problem), 1.0, 1.0)
