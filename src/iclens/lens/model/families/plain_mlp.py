"""Families with Llama's layout and an MLP without a gate, or LayerNorm in place of RMSNorm."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


@FAMILIES.register("arcee")
@FAMILIES.register("nemotron")
def squared_relu(config: Any) -> Family:
    """An MLP without a gate, of squared ReLU, whose factor relu(u)²/u is held."""
    return llama_layout(config, gated=False)


@FAMILIES.register("starcoder2")
def starcoder2(config: Any) -> Family:
    """An MLP without a gate; biased LayerNorm and linear maps; sliding windows."""
    return llama_layout(config, activations=("mlp.act",), gated=False)


@FAMILIES.register("stablelm")
def stablelm(config: Any) -> Family:
    """LayerNorm, parallel or sequential branches."""
    return llama_layout(config)
