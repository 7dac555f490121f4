"""GLM and GLM-4: Llama's layout with fused gates; GLM-4 adds norms after both branches."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


@FAMILIES.register("glm")
def glm(config: Any) -> Family:
    """The gate and the up-projection are one linear map."""
    return llama_layout(config, activations=("mlp.activation_fn",))


@FAMILIES.register("glm4")
def glm4(config: Any) -> Family:
    """The gate and the up-projection are one linear map; norms after both branches."""
    return llama_layout(
        config,
        activations=("mlp.activation_fn",),
        norms=("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"),
        norm_after_attention="post_self_attn_layernorm",
        norm_after_mlp="post_mlp_layernorm",
    )
