"""GPT-2 and GPT-BigCode: LayerNorm before both branches, learned positions, a plain MLP."""

from __future__ import annotations

from typing import Any

from iclens.errors import UserError
from iclens.lens.model.families.family import FAMILIES, Family


@FAMILIES.register("gpt2")
@FAMILIES.register("gpt_bigcode")
def gpt2(config: Any) -> Family:
    """Learned positions, a plain MLP; scores scaled by the inverse layer index; one key head for all query heads."""
    if config.add_cross_attention:
        raise UserError(
            f"{config.model_type} with add_cross_attention has a second source of attention that iclens does not "
            "read: use a decoder-only configuration."
        )
    return Family(
        name=config.model_type,
        causal=True,
        layers="h",
        attention="attn",
        output="attn.c_proj",
        mlp="mlp",
        activations=("mlp.act",),
        norms=("ln_1", "ln_2"),
        final_norm="ln_f",
    )
