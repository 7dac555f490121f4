"""DeepSeek: keys and values from a narrow latent behind a norm, experts beside shared ones, dense layers first."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


@FAMILIES.register("deepseek_v2")
@FAMILIES.register("deepseek_v3")
def deepseek(config: Any) -> Family:
    """Values from a latent behind a norm, whose scale is held, narrower than the keys; shared and chosen experts."""
    return llama_layout(
        config,
        activations=("mlp.act_fn", "mlp.experts.act_fn", "mlp.shared_experts.act_fn"),
        held=("mlp.gate",),
        single=True,
        norms=("input_layernorm", "post_attention_layernorm", "self_attn.kv_a_layernorm"),
    )
