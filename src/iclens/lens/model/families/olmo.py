"""OLMo (norms without weights) and OLMo 2, OLMo 3, EXAONE 4 (norms only after the branches)."""

from __future__ import annotations

from typing import Any

from iclens.errors import UserError
from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


@FAMILIES.register("olmo")
def olmo(config: Any) -> Family:
    """Norms without weights; refused with `clip_qkv`, because clipped values are not linear in the tokens."""
    if config.clip_qkv is not None:
        raise UserError(
            f"olmo with clip_qkv={config.clip_qkv} clips the values, so that attention is not linear in them: "
            "iclens handles olmo only with clip_qkv=null."
        )
    return llama_layout(config)


@FAMILIES.register("exaone4")
@FAMILIES.register("olmo2")
@FAMILIES.register("olmo3")
def olmo2(config: Any) -> Family:
    """Norms after the branches, none before them; sliding windows."""
    return llama_layout(
        config,
        norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        norm_after_attention="post_attention_layernorm",
        norm_after_mlp="post_feedforward_layernorm",
    )
