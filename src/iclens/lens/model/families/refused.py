"""Families whose attention or whose branches are not those of the dual model, and why."""

from __future__ import annotations

from typing import Any

from iclens.lens.model.families.family import REFUSED


@REFUSED.register("gemma3n")
@REFUSED.register("gemma3n_text")
def gemma3n(config: Any) -> str:
    """AltUp keeps several streams, which each layer mixes, corrects and adds to; a direct effect needs one stream."""
    return (
        "its AltUp branch keeps several streams side by side, which every layer mixes by a router and corrects by what "
        "it computed, so that the layers' outputs are no sum on one stream (and LAuReL and the per-layer embeddings "
        "add two more branches)"
    )


@REFUSED.register("bloom")
@REFUSED.register("codegen")
@REFUSED.register("deberta")
@REFUSED.register("falcon")
@REFUSED.register("gpt_neo")
@REFUSED.register("gptj")
@REFUSED.register("mpnet")
@REFUSED.register("mpt")
@REFUSED.register("xlnet")
def no_interface(config: Any) -> str:
    """Attention that does not go through the interface of Transformers, so that it cannot be captured."""
    return "its attention does not go through the interface of Transformers, so that it cannot be captured"


@REFUSED.register("t5")
def position_bias(config: Any) -> str:
    """A position bias in the scores, and an encoder that the decoder attends to."""
    return "its scores have a position bias, and its decoder attends to an encoder, which the dual does not have"
