"""The path: each token's share of the margin through all layers, the sequence of duals.

With attention weights, norms and gates held at their values, the network is linear in the token embeddings
(token + position) and in its biases. One backward pass gives the gradient G of the margin, and

    margin = Σ_i ⟨G_embedding(i), embedding(i)⟩ + Σ_i Σ_biases ⟨G_bias(i), b⟩ + the unembedding's bias

exactly: the first sum is what the tokens say, the second what the model adds at their positions whatever they
say. Of an answer's log-probability the model's own probabilities are held, too, and minus their entropy is a constant.
(Ren & Liu 2024, many layers, extended to a stack of layers with held gates.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.lens.model.placed import at_hand, doubled, wide
from iclens.lens.read.padded import OfPrompts
from iclens.lens.read.tracing import Trace


@dataclass(frozen=True)
class PathScores(OfPrompts):
    """Shares of each prompt's margin, which they sum to; float64, zero where a prompt was filled up.

    Attributes:
        embedding: what each token's embedding (with its position's) contributes through all layers.
        bias: what the model's biases at each token's position contribute.
        margin: the margin of the held network, which is the model's own.
        residual: |sum of the parts and the rest − margin| / max(|margin|, largest |part|).
        rest: what belongs to no token: 0, or minus the entropy of the predictions whose log-probability is read.
    """

    embedding: Float[Tensor, "*batch n"]
    bias: Float[Tensor, "*batch n"]
    margin: Float[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]
    rest: Float[Tensor, "*batch"]

    @property
    def parts(self) -> Float[Tensor, "*batch n"]:
        """Embedding and biases together, by token; with the rest they sum to the margin."""
        return self.embedding + self.bias

    @property
    def total(self) -> Float[Tensor, "*batch"]:
        """The sum of everything."""
        return self.parts.sum(-1) + self.rest


def path(traced: Trace) -> PathScores:
    """Attribute every prompt's margin to its tokens through all layers, by one backward pass for all prompts.

    Prompts do not see one another, so that one backward pass serves all. It uses up what the held pass kept: a second
    call needs another trace.

    Args:
        traced: a pass with `held=True`; a soft cap or scale of the logits is held like a gate.

    Raises:
        ValueError: the pass was not held, or its graph was used already.
    """
    lens_model, leaves, logits = traced.lens_model, traced.leaves, traced.logits
    if leaves is None or leaves.unembedded is None:
        raise ValueError("the path needs a trace with held=True, and uses it up.")
    before, leaves.unembedded = leaves.unembedded, None
    batch, n = traced.tokens.ids.shape
    readouts = traced.readouts
    linear, own = readouts.is_linear, logits.to(before.device)
    gains = readouts.gains(before.detach(), own) if linear else readouts.dense_gains(before.detach(), own)
    # Also where the caller takes no gradients.
    with torch.enable_grad():
        read = gains * (readouts.terms_of(before) if linear else wide(before))
        gradients = torch.autograd.grad(read.sum(), leaves.embeddings)
    bias = leaves.bias.reshape(batch, n)
    embedding = torch.zeros_like(bias)
    for leaf, gradient in zip(leaves.embeddings, gradients, strict=True):
        parts = (doubled(leaf.detach()) * doubled(gradient)).sum(-1)
        embedding += parts.reshape(-1, batch, n).sum(0).to(bias.device)
    leaves.embeddings.clear()
    head = lens_model.anatomy.head
    assert head is not None
    if head.bias is not None:
        with at_hand(head):
            offset: Tensor = head.bias  # type: ignore[assignment]
            if linear:
                shares = gains * wide(offset.detach()[readouts.to(offset.device).term_indices])
            else:
                shares = gains @ wide(offset.detach())
        places = (readouts.positions.gather(1, readouts.term_rows) if linear else readouts.positions).to(bias.device)
        bias = bias.scatter_add(1, places, doubled(shares).to(bias.device))
    margin, rest = (doubled(one).to(bias.device) for one in (traced.margins, readouts.rest(logits)))
    largest = torch.stack([margin.abs(), embedding.abs().amax(1), bias.abs().amax(1)]).amax(0)
    difference = ((embedding + bias).sum(1) + rest - margin).abs()
    return PathScores(embedding, bias, margin, difference / largest.clamp_min(torch.finfo(torch.float64).tiny), rest)
