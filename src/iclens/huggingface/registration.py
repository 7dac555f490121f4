"""Making an attention function and its mask function known to transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def register(name: str, attend: Callable[..., Any], mask: Callable[..., Any]) -> None:
    """Register both functions under one name, once a process.

    Without a mask function of the same name, transformers passes no mask and causality is lost silently.

    Args:
        name: what `set_attn_implementation` will be given.
        attend: `attend(module, query, key, value, attention_mask, scaling=…, **kwargs) -> (output, None)`.
        mask: called once per forward pass and kind of mask, with the arguments of
            `transformers.masking_utils.sdpa_mask`.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, mask)
