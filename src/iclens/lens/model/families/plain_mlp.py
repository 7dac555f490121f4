"""Families with Llama's layout and an MLP without a gate, or LayerNorm in place of RMSNorm."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


@FAMILIES.register("arcee")
@FAMILIES.register("nemotron")
def squared_relu(config: Any) -> Family:
    """Squared ReLU: its gate is relu(u)²/u."""
    return llama_layout(config, gated=False)


@FAMILIES.register("starcoder2")
def starcoder2(config: Any) -> Family:
    """StarCoder 2: biased LayerNorm and linear maps."""
    return llama_layout(config, activations=("mlp.act",), gated=False)


@FAMILIES.register("stablelm")
def stablelm(config: Any) -> Family:
    """StableLM: LayerNorm, gated MLP, parallel or sequential residual."""
    return llama_layout(config)
