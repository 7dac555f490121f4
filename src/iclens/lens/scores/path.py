"""The path: each token's share of the margin through all layers, the sequence of duals.

With attention weights, norms and gates held at their values, the network is linear in the token embeddings
(token + position) and in its biases. One backward pass gives the gradient G of the margin, and

    margin = Σ_i ⟨G_embedding(i), embedding(i)⟩ + Σ_i Σ_biases ⟨G_bias(i), b⟩ + the unembedding's bias

exactly: the first sum is what the tokens say, the second what the model adds at their positions whatever they
say. (Ren & Liu 2024, many layers, extended to a stack of layers with held gates.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import at_hand
from iclens.lens.read.capture import run
from iclens.lens.read.frozen import holding
from iclens.lens.read.readout import Readout
from iclens.lens.read.trace import one_prompt


@dataclass(frozen=True)
class Path:
    """Shares of the margin, which they sum to.

    Attributes:
        embedding: what each token's embedding (with its position's) contributes through all layers.
        bias: what the model's biases at each token's position contribute.
        margin: the margin of the held network, which is the model's own.
        residual: |sum of the parts − margin| / max(|margin|, largest |part|).
    """

    embedding: Float[Tensor, " n"]
    bias: Float[Tensor, " n"]
    margin: float
    residual: float

    @property
    def parts(self) -> Float[Tensor, " n"]:
        """Embedding and biases together, by token; they sum to the margin."""
        return self.embedding + self.bias

    @property
    def relative_residual(self) -> float:
        """|sum of the parts − margin| / |margin|: stricter than `residual` where the margin nearly cancels."""
        return abs(float(self.parts.double().sum()) - self.margin) / max(abs(self.margin), torch.finfo().tiny)


def path(lens_model: LensModel, input_ids: Int[Tensor, "*one n"], readout: Readout) -> Path:
    """Attribute the margin to tokens through all layers, with one forward and one backward pass.

    Args:
        lens_model: a causal language model.
        input_ids: the prompt.
        readout: what is read from the logits; a soft cap or scale of the logits is held like a gate.

    Raises:
        UserError: the prompt or the read-out does not fit the model.
    """
    ids = one_prompt(lens_model, input_ids, readout)
    n = ids.shape[1]
    positions = torch.tensor(readout.positions, device=lens_model.index_device)
    with holding(lens_model, n) as leaves:
        logits = run(
            lens_model,
            ids,
            position_ids=torch.arange(n, device=ids.device)[None],
            logits_to_keep=positions,
        )[0].detach()
        unembedded = leaves.unembedded
        assert unembedded is not None
        assert leaves.bias is not None
        gains = readout.gains(unembedded.detach(), logits)
        row = {p: r for r, p in enumerate(readout.positions)}
        read = unembedded[[row[p] for p, _, _ in readout.terms], [i for _, i, _ in readout.terms]]
        gradients = torch.autograd.grad(gains @ read, leaves.embeddings)
    embedding = torch.zeros(n, dtype=torch.float64, device=ids.device)
    for leaf, gradient in zip(leaves.embeddings, gradients, strict=True):
        embedding += (leaf.detach().double() * gradient.double()).sum(-1).reshape(-1, n).sum(0).to(ids.device)
    bias = leaves.bias
    head = lens_model.anatomy.head
    assert head is not None
    if head.bias is not None:
        with at_hand(head):
            for (position, index, _), gain in zip(readout.terms, gains, strict=True):
                bias[position] += float(gain * head.bias[index].detach())  # type: ignore[index]
    margin = float(readout.margin(logits))
    total = float((embedding + bias).sum())
    largest = max(abs(margin), float(embedding.abs().max()), float(bias.abs().max()), torch.finfo().tiny)
    return Path(embedding.to(logits.dtype), bias.to(logits.dtype), margin, abs(total - margin) / largest)
