"""What a layer hands to its attention beside q, k, v and the mask: which of it may be passed over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

HARMLESS = ("position_ids", "cache_position", "input_ids", "attention_mask")
"""Tensors that attention layers pass along and that carry nothing the mask, q and k do not."""


def unhandled_term(extras: Mapping[str, Any], terms: Collection[str], *, any_tensor: bool) -> str | None:
    """Find the first extra argument that changes attention and that the caller does not handle; None without any.

    Args:
        extras: keyword arguments of the attention function that the caller does not know by name.
        terms: names of arguments that change attention whenever they are not None.
        any_tensor: whether every tensor that is not known to be harmless counts. Otherwise only real-valued ones with
            an axis do: `num_items_in_batch`, which Trainer forwards to every layer, is a scalar.
    """
    for name, thing in extras.items():
        if thing is not None and name in terms:
            return name
        if not isinstance(thing, Tensor) or name in HARMLESS:
            continue
        if any_tensor or (thing.is_floating_point() and thing.ndim > 0):
            return name
    return None
