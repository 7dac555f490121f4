"""The paths of many prompts: each token's share of its prompt's margin through all layers, from one backward pass."""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.lens.many.reading import Reading, unembedding_only
from iclens.lens.many.trace import Tokens, keep
from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import at_hand
from iclens.lens.read.capture import run
from iclens.lens.read.frozen import holding


class BatchPath(NamedTuple):
    """`Path` with an axis of prompts.

    Attributes:
        parts: what each token's embedding, and the biases at its position, contribute; zero where filled up.
        residuals: |sum of the parts − margin| / max(|margin|, largest |embedding's or biases' part|).
    """

    parts: Float[Tensor, "batch n"]
    residuals: Float[Tensor, " batch"]


def path_batch(lens_model: LensModel, tokens: Tokens, reading: Reading) -> BatchPath:
    """`path` of every prompt: prompts do not see one another, so that one backward pass serves all."""
    batch, n = tokens.ids.shape
    home = tokens.ids.device
    head = lens_model.anatomy.head
    assert head is not None
    kept: dict[nn.Module, Tensor] = {}
    with ExitStack() as stack:
        leaves = stack.enter_context(holding(lens_model, batch * n))
        stack.enter_context(unembedding_only(lens_model, reading.positions))
        stack.callback(head.register_forward_hook(keep(kept, head)).remove)
        logits = run(lens_model, tokens.ids, position_ids=tokens.places).detach()
        before = kept[head]
        gains = reading.gains(before.detach(), logits.to(before.device))
        gradients = torch.autograd.grad((gains * reading.terms_of(before)).sum(), leaves.embeddings)
    embedding = torch.zeros(batch, n, dtype=torch.float64, device=home)
    for leaf, gradient in zip(leaves.embeddings, gradients, strict=True):
        embedding += (leaf.detach().double() * gradient.double()).sum(-1).reshape(batch, n).to(home)
    assert leaves.bias is not None
    bias = leaves.bias.reshape(batch, n)
    if head.bias is not None:
        with at_hand(head):
            offset: Tensor = head.bias  # type: ignore[assignment]
            shares = gains * offset.detach()[reading.to(offset.device).term_indices]
        bias = bias.scatter_add(1, reading.positions.gather(1, reading.term_rows), shares.double().to(home))
    margins = reading.margin(logits[:, None])[:, 0].double().to(home)
    largest = torch.stack([margins.abs(), embedding.abs().amax(1), bias.abs().amax(1)]).amax(0)
    parts = embedding.to(logits.dtype) + bias.to(logits.dtype)
    difference = ((embedding + bias).sum(1) - margins).abs()
    return BatchPath(parts.to(home), difference / largest.clamp_min(torch.finfo(torch.float64).tiny))
