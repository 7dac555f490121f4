"""Phi (parallel branches after one norm) and Phi-3 (Llama's layout with fused projections)."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


@FAMILIES.register("phi")
def phi(config: Any) -> Family:
    """Parallel branches after one LayerNorm; a biased unembedding."""
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
    """Fused projections, sliding windows, rotary positions that stretch with the text."""
    return llama_layout(config, activations=("mlp.activation_fn",))
