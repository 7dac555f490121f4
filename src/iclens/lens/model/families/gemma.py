"""Gemma 2 and 3: norms before and after both branches, soft caps, windows, scaled embeddings."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


def _layout(config: Any, **changes: Any) -> Family:
    return llama_layout(
        config,
        norms=(
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ),
        norm_after_attention="post_attention_layernorm",
        norm_after_mlp="post_feedforward_layernorm",
        **changes,
    )


@FAMILIES.register("gemma2")
@FAMILIES.register("gemma3_text")
def gemma(config: Any) -> Family:
    """Scaled embeddings, norms before and after the branches, soft caps of scores and logits, sliding windows."""
    # The eager attention, which alone has soft caps, takes its softmax in float32.
    return _layout(config, single=("capture",) if getattr(config, "attn_logit_softcapping", None) else ())


@FAMILIES.register("gemma3")
def gemma3(config: Any) -> Family:
    """A model with a vision tower: its text model, on text alone."""
    return _layout(config.text_config, name="gemma3", layers="language_model.layers", final_norm="language_model.norm")
