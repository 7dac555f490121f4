"""Masks in the forms that callers of a model give them, as booleans."""

from __future__ import annotations

import torch
from torch import Tensor

from iclens.errors import UserError


def as_bool(given: Tensor, layer: str, reader: str) -> Tensor:
    """Convert a mask to True where a token may be attended to.

    Args:
        given: bool, or 0 where a token may be attended to and very negative where it may not.
        layer: what the error message calls the layer.
        reader: subject and verb of the error message: who takes masks.

    Raises:
        UserError: the mask has other values: it adds to the scores, as relative positions do.
    """
    if given.dtype == torch.bool:
        return given
    if not torch.compiler.is_compiling() and bool(((given != 0) & (given > -1e4)).any()):
        raise UserError(
            f"{layer} was given a mask that adds to the scores. {reader} masks that allow or forbid: "
            "bool, or 0 and the dtype's smallest number."
        )
    return given >= 0
