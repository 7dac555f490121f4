"""Models of transformers that take a variant, and what the tests of `apply` ask of them."""

from __future__ import annotations

from typing import Any

import torch

FAMILIES = [
    "gpt2",
    "gpt2-inverse-layer",
    "llama",
    "qwen2",
    "qwen2-window",
    "qwen3",
    "mistral-window",
    "gpt_neox",
    "opt",
    "gemma3_text",
    "phi3",
    "olmo2",
    "bert",
    "roberta",
    "distilbert",
]
ADAPTER = {"name": "adapter", "hidden": 4}
VARIANTS: dict[str, dict[str, Any]] = {
    "regularized": {"alpha": 0.3},
    "weight-decay": {"alpha": 0.3},
    "negative": {"n_negatives": 1, "beta": 0.2},
    "augmented": {"g1": ADAPTER, "g2": ADAPTER},
    "kernel-ridge": {"strength": 0.5, "learned": True},
    "preconditioned": {"rate": 0.8},
    "delta-rule": {"rate": 0.8},
    "momentum": {"momentum": 0.5},
}


def left_padded(ids: torch.Tensor) -> torch.Tensor:
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    return mask


def right_padded(ids: torch.Tensor) -> torch.Tensor:
    return left_padded(ids).flip(1)


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor, padding: Any = None) -> torch.Tensor:
    """The model's first output at the tokens that are no padding."""
    if padding is None:
        return model(ids)[0]
    mask = padding(ids)
    return model(ids, attention_mask=mask)[0][mask.bool()]


def strengthen(handle: Any) -> None:
    """Move every parameter of the variants away from where it started."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for variant in handle.variants.values():
            for parameter in variant.parameters():
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
