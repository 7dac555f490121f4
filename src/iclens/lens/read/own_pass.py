"""The traced pass against one plain pass of the model, with its own attention and its own masks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.huggingface import implementation
from iclens.lens.read.capture import run
from iclens.lens.read.padded import unembedding_only
from iclens.lens.read.tracing import Trace


@torch.no_grad()
def off_by(traced: Trace) -> Float[Tensor, " batch"]:
    """How far the numbers of a traced pass are from the model's own: the worst relative difference in each prompt.

    Compared are the output of every attention module (after W_O) at every real token, and the logits that are read,
    each relative to the largest magnitude of the model's own numbers in that prompt. A model with a soft cap on its
    scores is compared with its own eager attention, because some versions of its fast one drop the cap silently.

    Args:
        traced: the pass.
    """
    lens_model, tokens = traced.lens_model, traced.tokens
    real, home = tokens.real, tokens.ids.device
    worst: list[Tensor] = []

    def compare(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            where = real.to(output[0].device)[..., None]
            worst.append(_relative(traced.attended[name], output[0], where).to(home))

        return hook

    with ExitStack() as stack:
        for layer in lens_model.anatomy.layers:
            stack.callback(layer.attention.register_forward_hook(compare(layer.attention_name)).remove)
        stack.enter_context(unembedding_only(lens_model, traced.readouts.positions))
        stack.enter_context(implementation(lens_model.model, "eager" if traced.capped else None))
        logits = run(lens_model, tokens.ids)
    worst.append(_relative(traced.logits, logits, torch.ones_like(logits, dtype=torch.bool)).to(home))
    return torch.stack(worst).amax(0)


def _relative(ours: Tensor, theirs: Tensor, where: Tensor) -> Tensor:
    """max|ours − theirs| / max|theirs| of each prompt; NaN where a number is none."""
    difference = torch.where(where, (ours - theirs).abs(), 0.0).flatten(1).amax(1)
    largest = torch.where(where, theirs.abs(), 0.0).flatten(1).amax(1)
    return difference / largest.clamp_min(torch.finfo(theirs.dtype).tiny)
