"""Gradient times input: the margin's gradient at the token embeddings, times the embeddings."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.huggingface import implementation
from iclens.lens.lens import Lens
from iclens.lens.model.rotary import forget_longer_prompts
from iclens.lens.scores.method import ATTRIBUTIONS, Scores


def embeddings(lens: Lens) -> Float[Tensor, "n width"]:
    """Return the token embeddings of the prompt, without positions."""
    ids = lens.input_ids.to(lens.model.device)
    return lens.model.model.get_input_embeddings()(ids).detach()


def margins_at(lens: Lens, inputs: Float[Tensor, "batch n width"]) -> Float[Tensor, " batch"]:
    """Return the margin when the token embeddings are `inputs`; differentiable in them."""
    keep = lens.readouts.positions[0].to(inputs.device)
    forget_longer_prompts(lens.model)
    lens.passes.forward_passes += len(inputs)
    with implementation(lens.model.model, None):
        logits = lens.model.model(inputs_embeds=inputs, logits_to_keep=keep, use_cache=False).logits
    return lens.readouts.margin(logits[None])[0]


def embedding_gradient(lens: Lens) -> tuple[Float[Tensor, "n width"], Float[Tensor, "n width"]]:
    """Return the token embeddings, and the margin's gradient at them: a forward and a backward pass."""
    inputs = embeddings(lens)[None].requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(margins_at(lens, inputs).sum(), inputs)
    lens.passes.backward_passes += 1
    return inputs.detach()[0], gradient[0]


@ATTRIBUTIONS.register("gradient_x_input")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """⟨∂ margin/∂ embedding, embedding⟩, summed over a demonstration's tokens."""
    inputs, gradient = embedding_gradient(lens)
    return Scores(lens.by_demonstration((gradient * inputs).sum(-1)), 1.0, 1.0)
