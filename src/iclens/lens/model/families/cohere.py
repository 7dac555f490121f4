"""Cohere's Command models: parallel branches behind one norm, scaled logits."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


@FAMILIES.register("cohere")
@FAMILIES.register("cohere2")
def cohere(config: Any) -> Family:
    """LayerNorm without a bias; the scale of the logits is part of the read-out."""
    return llama_layout(config, norms=("input_layernorm",))
