"""Mixtures of experts in Llama's layout: a router chooses experts and weighs them, and is held like a gate."""

from __future__ import annotations

from typing import Any

from iclens.errors import UserError
from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


@FAMILIES.register("mixtral")
def mixtral(config: Any) -> Family:
    """Experts that a router chooses and weighs; it is held like a gate."""
    return llama_layout(config, activations=("mlp.experts.act_fn",), held=("mlp.gate",))


@FAMILIES.register("qwen2_moe")
@FAMILIES.register("qwen3_moe")
def qwen_moe(config: Any) -> Family:
    """Experts beside dense layers; in `qwen2_moe` a shared expert behind a gate, which is held too."""
    return llama_layout(
        config,
        activations=("mlp.act_fn", "mlp.experts.act_fn", "mlp.shared_expert.act_fn"),
        held=("mlp.gate", "mlp.shared_expert_gate"),
    )


@FAMILIES.register("olmoe")
def olmoe(config: Any) -> Family:
    """Experts; refused with `clip_qkv`, because clipped values are not linear in the tokens."""
    if config.clip_qkv is not None:
        raise UserError(
            f"olmoe with clip_qkv={config.clip_qkv} clips the values, so that attention is not linear in them: "
            "iclens handles olmoe only with clip_qkv=null."
        )
    return llama_layout(config, activations=("mlp.experts.act_fn",), held=("mlp.gate",))


@FAMILIES.register("granitemoe")
def granitemoe(config: Any) -> Family:
    """Experts; multipliers on embeddings, branches, scores and logits."""
    return llama_layout(
        config,
        mlp="block_sparse_moe",
        activations=("block_sparse_moe.experts.act_fn",),
        held=("block_sparse_moe.router",),
        branch_scale=float(config.residual_multiplier),
    )


@FAMILIES.register("phimoe")
def phimoe(config: Any) -> Family:
    """Experts whose router compares scores with the largest one; biased LayerNorm, a biased unembedding."""
    return llama_layout(config, activations=("mlp.experts.act_fn",), held=("mlp.router",))
