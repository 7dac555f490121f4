"""Encoders: their attention is captured and verified; they have no next token to explain."""

from __future__ import annotations

from typing import Any

from iclens.errors import UserError
from iclens.lens.model.families.family import FAMILIES, Family


@FAMILIES.register("bert")
@FAMILIES.register("roberta")
def bert(config: Any) -> Family:
    """An encoder: its attention is captured and verified; it has no next token to explain."""
    if config.is_decoder or config.add_cross_attention:
        raise UserError(
            f"{config.model_type} with is_decoder or add_cross_attention is not an encoder: iclens captures it only "
            "with both set to false."
        )
    return Family(name=config.model_type, causal=False, layers="encoder.layer", attention="attention.self")


@FAMILIES.register("distilbert")
def distilbert(config: Any) -> Family:
    """An encoder whose layers do not know their index: captured and verified, with no next token to explain."""
    return Family(name=config.model_type, causal=False, layers="transformer.layer", attention="attention")
