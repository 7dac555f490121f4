"""DeepSeek: keys and values from a narrow latent after a norm, experts beside shared ones, dense layers first."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


@FAMILIES.register("deepseek_v2")
@FAMILIES.register("deepseek_v3")
def deepseek(config: Any) -> Family:
    """Values from a latent after a norm, whose scale is held, narrower than the keys; experts; routers in float32."""
    return llama_layout(
        config,
        activations=("mlp.act_fn", "mlp.experts.act_fn", "mlp.shared_experts.act_fn"),
        held=("mlp.gate",),
        # Routers compute in float32, and DeepSeek V2 turns queries and keys in it.
        single=("knock_out",),
        norms=("input_layernorm", "post_attention_layernorm", "self_attn.kv_a_layernorm"),
    )
