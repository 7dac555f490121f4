"""GPT-NeoX (Pythia): parallel or sequential branches, partial rotary positions."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import FAMILIES, Family


@FAMILIES.register("gpt_neox")
def gpt_neox(config: Any) -> Family:
    """Parallel or sequential branches, partly rotary positions."""
    return Family(
        name=config.model_type,
        causal=True,
        layers="layers",
        attention="attention",
        output="attention.dense",
        mlp="mlp",
        activations=("mlp.act",),
        norms=("input_layernorm", "post_attention_layernorm"),
        final_norm="final_layer_norm",
    )
