"""Granite: Llama's layout with multipliers on embeddings, branches, scores and logits."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


@FAMILIES.register("granite")
def granite(config: Any) -> Family:
    """Multipliers on embeddings, branches, scores and logits."""
    return llama_layout(config, branch_scale=float(config.residual_multiplier))
