"""Models with layers that have no softmax attention, refused with the first such layer."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import REFUSED

_SOFTMAX = ("full_attention", "sliding_attention", "chunked_attention", "attention")
_KINDS = {
    "linear_attention": "linear attention or a state-space layer",
    "mamba": "a state-space layer",
    "recurrent": "a recurrent layer",
    "conv": "a convolution",
    "hybrid": "a state-space layer beside attention",
}


@REFUSED.register("bamba")
@REFUSED.register("falcon_h1")
@REFUSED.register("falcon_mamba")
@REFUSED.register("granitemoehybrid")
@REFUSED.register("jamba")
@REFUSED.register("kimi_linear")
@REFUSED.register("lfm2")
@REFUSED.register("mamba")
@REFUSED.register("mamba2")
@REFUSED.register("minimax")
@REFUSED.register("nemotron_h")
@REFUSED.register("olmo_hybrid")
@REFUSED.register("qwen3_5")
@REFUSED.register("qwen3_5_moe")
@REFUSED.register("qwen3_next")
@REFUSED.register("recurrent_gemma")
@REFUSED.register("rwkv")
@REFUSED.register("xlstm")
@REFUSED.register("zamba")
@REFUSED.register("zamba2")
def hybrid(config: Any) -> str:
    """State-space, recurrent or linear-attention layers have no softmax over the tokens; the first one is named."""
    return foreign_layer(config) or "it has layers without a softmax over the tokens"


def foreign_layer(config: Any) -> str | None:
    """Name the first layer of a configuration that is not softmax attention; None where all are or it says nothing."""
    try:
        config = config.get_text_config()
    except ValueError:
        # A model of several texts has no layers of which to speak.
        return None
    for name in ("block_types", "layers_block_type", "layer_types"):
        kinds = getattr(config, name, None)
        for index, kind in enumerate(kinds if isinstance(kinds, list | tuple) else ()):
            if kind not in _SOFTMAX:
                what = f" ({_KINDS[kind]})" if kind in _KINDS else ""
                return f"its layer {index}, counted from 0, is of the type {kind!r}{what}, not softmax attention"
    return None
