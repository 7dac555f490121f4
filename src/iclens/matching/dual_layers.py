"""The dual lens on a model of the lab: every head of every layer as one gradient step on the demonstrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iclens.models.runs_attention import RunsAttention
from iclens.models.transformer import PromptTransformer
from iclens.tasks.prompt_batch import PromptBatch


@dataclass(frozen=True)
class HeadDual:
    """One head as a dual model, at the query of the prompts.

    Attributes:
        layer: from 0.
        head: from 0.
        residual: largest difference between the dual's prediction (with the residual that the variant declares) and
            the head's output, relative to the largest output.
        step_share: mean of ‖ΔWφ(q)‖ / (‖W_0φ(q)‖ + ‖ΔWφ(q)‖): how much of the output the demonstrations make.
        loss_fall: mean fall of the dual's loss by the step.
    """

    layer: int
    head: int
    residual: float
    step_share: float
    loss_fall: float


@torch.no_grad()
def dual_heads(model: PromptTransformer, prompt: PromptBatch) -> list[HeadDual]:
    """Every head's dual model at the last token, whose training examples are all tokens but the query's own.

    Source: Ren & Liu 2024, Theorem 3.1, applied to each head.

    Args:
        model: one run.
        prompt: prompts (batch, ...).
    """
    captured: list[tuple[Tensor, Tensor, Tensor, Tensor | None, bool, Tensor]] = []

    def keep(_module: RunsAttention, args: Any, settings: Any, out: Tensor) -> None:
        q, k, v, mask = args
        captured.append((q[0], k[0], v[0], mask, settings["is_causal"], out[0]))

    attentions = [module for module in model.modules() if isinstance(module, RunsAttention)]
    hooks = [module.register_forward_hook(keep, with_kwargs=True) for module in attentions]
    try:
        model(prompt.inputs.unsqueeze(0), prompt.labels.unsqueeze(0))
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for layer, (attention, (q, k, v, mask, is_causal, out)) in enumerate(zip(attentions, captured, strict=True)):
        found += _of_layer(layer, attention, q[..., -1:, :], k, v, mask, is_causal, out[..., -1:, :])
    return found


def _of_layer(
    layer: int,
    attention: RunsAttention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    out: Tensor,
) -> list[HeadDual]:
    dual = attention.variant_of(0).dual(q, k, v, k.shape[-2] - 1, mask, is_causal=is_causal)
    predicted = dual.forward()
    initial = dual.stepped.initial().squeeze(-2)
    step = dual.stepped.predict().squeeze(-2) - initial
    loss = dual.loss()
    share = step.norm(dim=-1) / (initial.norm(dim=-1) + step.norm(dim=-1))
    residual = (predicted - out).abs().amax((0, 2, 3)) / out.abs().amax((0, 2, 3))
    falls = (loss.before - loss.after).mean((0, 2))
    return [
        HeadDual(layer, head, float(residual[head]), float(share[:, head].mean()), float(falls[head]))
        for head in range(out.shape[1])
    ]
