"""What a layer hands to its attention beside q, k and v: which of it may be passed over, and its mask as booleans."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from iclens.errors import UserError

_HARMLESS = ("position_ids", "cache_position", "input_ids", "attention_mask")
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
        known = thing is not None and name in terms
        counts = isinstance(thing, Tensor) and (any_tensor or (thing.is_floating_point() and thing.ndim > 0))
        if known or (counts and name not in _HARMLESS):
            return name
    return None


def as_bool(given: Tensor, layer: str, reader: str) -> Tensor:
    """Convert a mask to True where a token may be attended to; it is bool, or 0 there and very negative elsewhere.

    Raises:
        UserError: the mask has other values: it adds to the scores, as relative positions do. The message names the
            layer and the reader, who takes masks (subject and verb).
    """
    if given.dtype == torch.bool:
        return given
    if not torch.compiler.is_compiling() and bool(((given != 0) & (given > -1e4)).any()):
        raise UserError(
            f"{layer} was given a mask that adds to the scores. {reader} masks that allow or forbid: "
            "bool, or 0 and the dtype's smallest number."
        )
    return given >= 0
