"""Every head's queries, keys, values and mask, taken from a real forward pass and checked against the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.errors import UserError
from iclens.huggingface import implementation
from iclens.lens.model.loading import LensModel
from iclens.lens.model.rotary import forget_longer_prompts
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.attend import eager, fast
from iclens.lens.read.fused import fused_activations
from iclens.lens.read.heads import HeadRecord


@dataclass(frozen=True)
class Capture:
    """A forward pass with every attention layer recorded.

    Attributes:
        records: one per layer, in the order of the layers.
        output: the logits, of all tokens or of the last few; for encoders the last hidden states.
    """

    records: tuple[HeadRecord, ...]
    output: Float[Tensor, "batch n_read width"]


@dataclass(frozen=True)
class CaptureCheck:
    """The captured forward pass against the model's own.

    Every residual is the largest difference over real tokens, relative to the largest magnitude of the model's
    own numbers.

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
        return math.nan if any(math.isnan(residual) for residual in residuals) else max(residuals)


@torch.no_grad()
def capture(
    lens_model: LensModel,
    input_ids: Int[Tensor, "batch n"],
    attention_mask: Int[Tensor, "_ _"] | None = None,
    *,
    last_logits: int | None = None,
) -> Capture:
    """Run the model once and record what every attention layer saw and returned.

    Heads' outputs come from fused attention, which forms no matrix of weights, GELUs from PyTorch's kernel; queries,
    keys and values are the model's own tensors and not copies. `check_capture` runs with attention written out.

    Args:
        lens_model: the model.
        input_ids: token ids.
        attention_mask: 1 for real tokens, 0 for padding; None when nothing is padded.
        last_logits: only the logits of so many last tokens, ≥ 1; None for those of all. With a large vocabulary they
            are a third of a small model's work.

    Returns:
        The records, and the output of this very pass.

    Raises:
        UserError: `last_logits` below 1, or with an encoder, which has no logits.
    """
    records: dict[str, HeadRecord] = {}
    real = _real(input_ids, attention_mask)
    kept = _kept_logits(lens_model, last_logits)

    def record(call: AttentionCall) -> torch.Tensor:
        if call.name in records:
            raise UserError(f"{call.name} attended twice in one pass: iclens reads layers that run once.")
        output = fast(call)
        records[call.name] = HeadRecord(**vars(call), output=output, real=real)
        return output

    with attending(lens_model, record), fused_activations(lens_model):
        output = run(lens_model, input_ids, attention_mask, **kept)
    return Capture(tuple(records[layer.attention_name] for layer in lens_model.anatomy.layers), output)


@torch.no_grad()
def check_capture(
    lens_model: LensModel,
    input_ids: Int[Tensor, "batch n"],
    attention_mask: Int[Tensor, "_ _"] | None = None,
) -> CaptureCheck:
    """Compare a captured pass with the model's own attention, as it was loaded.

    The output of every attention module (after W_O) and the final output are compared, each from its own
    forward pass: one with the capture, one without. A model with a soft cap on its scores is compared with its
    own eager attention, because some versions of its fast one drop the cap silently.
    """
    real = _real(input_ids, attention_mask)
    capped = False

    def attend(call: AttentionCall) -> torch.Tensor:
        nonlocal capped
        capped = capped or call.softcap is not None
        return eager(call)

    with attending(lens_model, attend, wants_mask=True):
        output, captured = _with_outputs(lens_model, input_ids, attention_mask)
    with implementation(lens_model.model, "eager" if capped else None):
        own_output, own = _with_outputs(lens_model, input_ids, attention_mask)
        name = str(lens_model.text_config._attn_implementation)
    return CaptureCheck(
        implementation=name,
        output=_relative_where(real, output, own_output),
        layers=tuple((name, _relative_where(real, captured[name], own[name])) for name in own),
    )


def relative(ours: Tensor, theirs: Tensor) -> float:
    """max|ours − theirs| / max|theirs|; zero when both are zero."""
    difference = float((ours - theirs).abs().max())
    return difference / max(float(theirs.abs().max()), torch.finfo(theirs.dtype).tiny) if difference else 0.0


def _relative_where(real: Tensor, ours: Tensor, theirs: Tensor) -> float:
    real = real.to(theirs.device)
    return relative(ours[real], theirs[real])


def run(
    lens_model: LensModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """One forward pass without a cache: logits, or an encoder's last hidden states."""
    forget_longer_prompts(lens_model)
    extra = dict(kwargs)
    if attention_mask is not None:
        extra["attention_mask"] = attention_mask
        if lens_model.family.causal and "position_ids" not in extra:
            extra["position_ids"] = (attention_mask.long().cumsum(-1) - 1).clamp_min(0)
    if lens_model.family.causal:
        return lens_model.model(input_ids=input_ids, use_cache=False, **extra).logits
    return lens_model.model(input_ids=input_ids, **extra)[0]


def _with_outputs(
    lens_model: LensModel, input_ids: Tensor, attention_mask: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            outputs[name] = output[0]

        return hook

    handles = [layer.attention.register_forward_hook(keep(layer.attention_name)) for layer in lens_model.anatomy.layers]
    try:
        return run(lens_model, input_ids, attention_mask), outputs
    finally:
        for handle in handles:
            handle.remove()


def _kept_logits(lens_model: LensModel, last: int | None) -> dict[str, int]:
    if last is None:
        return {}
    if last < 1:
        raise UserError(f"last_logits is {last}: it is a number of tokens, 1 or more.")
    if not lens_model.family.causal:
        raise UserError(f"last_logits is for models with logits; {lens_model.family.name} is an encoder.")
    return {"logits_to_keep": last}


def _real(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    if attention_mask.shape != input_ids.shape:
        raise UserError(
            f"the attention mask has shape {tuple(attention_mask.shape)}; the token ids have {tuple(input_ids.shape)}."
        )
    return attention_mask.bool()
