"""The traced pass against one plain pass of the model, with its own attention and its own masks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.lens.read.capture import against_own_pass, relative, run
from iclens.lens.read.padded import unembedding_only
from iclens.lens.read.tracing import Trace


@torch.no_grad()
def off_by(traced: Trace) -> Float[Tensor, " batch"]:
    """How far the numbers of a traced pass are from the model's own: the worst relative difference in each prompt.

    Compared are the output of every attention module (after W_O) at every real token, and the logits that are read,
    each relative to the largest magnitude of the model's own numbers in that prompt.
    """
    lens_model, tokens, positions = traced.lens_model, traced.tokens, traced.readouts.positions
    with (
        against_own_pass(lens_model, traced.attended, tokens.real, capped=traced.capped) as off,
        unembedding_only(lens_model, positions),
    ):
        logits = run(lens_model, tokens.ids)
    off["logits"] = relative(traced.logits, logits)
    return torch.stack([one.to(tokens.ids.device) for one in off.values()]).amax(0)
