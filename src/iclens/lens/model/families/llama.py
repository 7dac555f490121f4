"""Llama and the families with its layout, norm for norm."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


@FAMILIES.register("ernie4_5")
@FAMILIES.register("gemma")
@FAMILIES.register("helium")
@FAMILIES.register("hunyuan_v1_dense")
@FAMILIES.register("llama")
@FAMILIES.register("ministral")
@FAMILIES.register("mistral")
@FAMILIES.register("qwen2")
@FAMILIES.register("qwen3")
@FAMILIES.register("seed_oss")
@FAMILIES.register("smollm3")
def llama(config: Any) -> Family:
    """Grouped heads, sliding windows, norms of queries and keys, biases, layers without positions, scaled ones."""
    return llama_layout(config)
