"""Every head's queries, keys, values and mask, from a real forward pass; and passes checked against the model's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from iclens.errors import UserError
from iclens.huggingface import implementation
from iclens.lens.model.loading import LensModel
from iclens.lens.model.rotary import forget_longer_prompts
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.attend import fast
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
    keys and values are the model's own tensors and not copies.

    Args:
        lens_model: the model.
        input_ids: token ids.
        attention_mask: 1 for real tokens, 0 for padding; None when nothing is padded.
        last_logits: the number of last tokens whose logits are computed, ≥ 1; None for all. With a large vocabulary
            they are a third of a small model's work.

    Raises:
        UserError: `last_logits` below 1, or with an encoder, which has no logits.
    """
    records: dict[str, HeadRecord] = {}
    real = real_tokens(input_ids, attention_mask)
    if last_logits is not None and last_logits < 1:
        raise UserError(f"last_logits is {last_logits}: it is a number of tokens, 1 or more.")
    if last_logits is not None and not lens_model.family.causal:
        raise UserError(f"last_logits is for models with logits; {lens_model.family.name} is an encoder.")
    kept = {} if last_logits is None else {"logits_to_keep": last_logits}

    def record(call: AttentionCall) -> torch.Tensor:
        if call.name in records:
            raise UserError(f"{call.name} attended twice in one pass: iclens reads layers that run once.")
        output = fast(call)
        records[call.name] = HeadRecord(**vars(call), output=output, real=real)
        return output

    with attending(lens_model, record), fused_activations(lens_model):
        output = run(lens_model, input_ids, attention_mask, **kept)
    return Capture(tuple(records[layer.attention_name] for layer in lens_model.anatomy.layers), output)


@contextmanager
def against_own_pass(
    lens_model: LensModel, kept: Mapping[str, Tensor], real: Bool[Tensor, "batch n"], *, capped: bool
) -> Iterator[dict[str, Float[Tensor, " batch"]]]:
    """Compare a pass inside the block, by the model's own attention and masks, with what was `kept` of a pass of ours.

    That is the output of every attention module (after W_O), by its name. Under the same names the block is given how
    far each is off in each prompt, by `relative`. A model with a soft cap on its scores is compared with its own eager
    attention, because some versions of its fast one drop the cap silently.
    """
    off: dict[str, Tensor] = {}

    def compare(name: str, theirs: Tensor) -> None:
        off[name] = relative(kept[name], theirs, real)

    with attention_outputs(lens_model, compare), implementation(lens_model.model, "eager" if capped else None):
        yield off


def relative(ours: Tensor, theirs: Tensor, real: Bool[Tensor, "batch n"] | None = None) -> Float[Tensor, " batch"]:
    """max|ours − theirs| / max|theirs| over the real tokens of each prompt; NaN where a number is none."""
    difference, size = (ours - theirs).abs(), theirs.abs()
    if real is not None:
        difference, size = (torch.where(real.to(x.device)[..., None], x, 0.0) for x in (difference, size))
    return difference.flatten(1).amax(1) / size.flatten(1).amax(1).clamp_min(torch.finfo(size.dtype).tiny)


@contextmanager
def attention_outputs(lens_model: LensModel, see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `see` with the name and the output (after W_O) of every attention module that runs inside the block."""
    with ExitStack() as stack:
        for layer in lens_model.anatomy.layers:

            def hook(module: nn.Module, inputs: Any, output: Any, name: str = layer.attention_name) -> None:
                see(name, output[0].detach())

            stack.callback(layer.attention.register_forward_hook(hook).remove)
        yield


def run(lens_model: LensModel, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
    """One forward pass in evaluation mode, without a cache: logits, or an encoder's last hidden states."""
    forget_longer_prompts(lens_model)
    if attention_mask is not None:
        kwargs["attention_mask"] = attention_mask
        if lens_model.family.causal:
            kwargs.setdefault("position_ids", (attention_mask.long().cumsum(-1) - 1).clamp_min(0))
    with implementation(lens_model.model, None):
        if lens_model.family.causal:
            return lens_model.model(input_ids=input_ids, use_cache=False, **kwargs).logits
        return lens_model.model(input_ids=input_ids, **kwargs)[0]


def real_tokens(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Which tokens are no padding."""
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    if attention_mask.shape != input_ids.shape:
        raise UserError(
            f"the attention mask has shape {tuple(attention_mask.shape)}; the token ids have {tuple(input_ids.shape)}."
        )
    return attention_mask.bool()
