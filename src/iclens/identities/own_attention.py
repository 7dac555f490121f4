"""A pass of the lens against the model's own attention, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from iclens.lens.model.loading import LensModel
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.attend import eager
from iclens.lens.read.capture import against_own_pass, attention_outputs, real_tokens, relative, run


@dataclass(frozen=True)
class CaptureCheck:
    """The captured forward pass against the model's own; every residual is the worst prompt's, by `relative`.

    Attributes:
        implementation: the model's own attention implementation that was compared with.
        output: residual of the logits (encoders: last hidden states).
        layers: (module name, residual of the attention module's own output) for each layer.
    """

    implementation: str
    output: float
    layers: tuple[tuple[str, float], ...]

    @property
    def worst(self) -> float:
        """The largest of all residuals; NaN when the model's own numbers are."""
        residuals = [self.output, *(residual for _, residual in self.layers)]
        return math.nan if any(map(math.isnan, residuals)) else max(residuals)


@torch.no_grad()
def check_capture(
    lens_model: LensModel, input_ids: Int[Tensor, "batch n"], attention_mask: Int[Tensor, "_ _"] | None = None
) -> CaptureCheck:
    """Compare a pass of ours, with attention written out, with the model's own attention, as it was loaded.

    The output of every attention module and the final output are compared: see `against_own_pass`.
    """
    real = real_tokens(input_ids, attention_mask)
    kept: dict[str, Tensor] = {}
    caps: set[float | None] = set()

    def attend(call: AttentionCall) -> torch.Tensor:
        caps.add(call.softcap)
        return eager(call)

    with attending(lens_model, attend, wants_mask=True), attention_outputs(lens_model, kept.__setitem__):
        output = run(lens_model, input_ids, attention_mask)
    with against_own_pass(lens_model, kept, real, capped=bool(caps - {None})) as layers:
        own_output = run(lens_model, input_ids, attention_mask)
        name = str(lens_model.text_config._attn_implementation)
    worst = tuple((layer, float(off.amax())) for layer, off in layers.items())
    return CaptureCheck(name, float(relative(output, own_output, real).amax()), worst)
