"""Cohere's Command models: parallel branches after one norm, scaled logits."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


@FAMILIES.register("cohere")
@FAMILIES.register("cohere2")
def cohere(config: Any) -> Family:
    """Parallel branches after one LayerNorm without a bias; a scale on the logits."""
    return llama_layout(config, norms=("input_layernorm",))
