"""Phi (parallel branches behind one norm) and Phi-3 (Llama's layout with fused projections)."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


@FAMILIES.register("phi")
def phi(config: Any) -> Family:
    """Phi-1 and Phi-2: one LayerNorm feeds both branches; the unembedding has a bias."""
    return llama_layout(
        config,
        output="self_attn.dense",
        activations=("mlp.activation_fn",),
        gated=False,
        norms=("input_layernorm",),
        final_norm="final_layernorm",
    )


@FAMILIES.register("phi3")
def phi3(config: Any) -> Family:
    """Phi-3 and Phi-4-mini; long-rope factors are chosen by the model from the explicit positions."""
    return llama_layout(config, activations=("mlp.activation_fn",))
