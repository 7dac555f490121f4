"""OPT: norms before the branches, or (350m) on the stream after them; projected embeddings."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import FAMILIES, Family


@FAMILIES.register("opt")
def opt(config: Any) -> Family:
    """Norms before the branches, or on the stream after them (350m); embeddings narrower than the stream."""
    before = config.do_layer_norm_before
    return Family(
        name=config.model_type,
        causal=True,
        layers="decoder.layers",
        attention="self_attn",
        output="self_attn.out_proj",
        mlp="fc2",
        activations=("activation_fn",),
        norms=("self_attn_layer_norm", "final_layer_norm"),
        norm_on_stream_after_attention=None if before else "self_attn_layer_norm",
        norm_on_stream_after_mlp=None if before else "final_layer_norm",
        final_norm="decoder.final_layer_norm",
        projection="decoder.project_out",
    )
