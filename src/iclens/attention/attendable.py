"""How many keys the queries of a prompt may attend to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from iclens.attention.transformed import is_transformed


class Fewest(NamedTuple):
    """The prompt with the fewest attendable keys.

    Attributes:
        n_key: the most keys that any of its queries may attend to.
        prompt: its index in the mask's axes before the heads.
    """

    n_key: int
    prompt: tuple[int, ...]


# One mask serves all layers of a model, and looking at it waits for its device.
_KNOWN: WeakIdKeyDictionary = WeakIdKeyDictionary()


def fewest_attendable(mask: Tensor) -> Fewest | None:
    """Return the prompt whose best-served query may attend to the fewest keys, of the prompts that may attend to any.

    None where a program is compiled, captured or transformed and cannot ask a tensor for its numbers, and for a mask
    that hides everything.

    Args:
        mask: True where a query may attend, (..., n_query or 1, n_key), with an axis of heads before these if more.
    """
    if torch.compiler.is_compiling() or is_transformed(mask):
        return None
    if mask.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    if mask.is_inference():
        return _fewest(mask)
    version, fewest = _KNOWN.get(mask, (None, None))
    if version != mask._version:
        fewest = _fewest(mask)
        _KNOWN[mask] = (mask._version, fewest)
    return fewest


def _fewest(mask: Tensor) -> Fewest | None:
    most = mask.sum(-1).amax(-1)
    n_key, where = torch.where(most > 0, most, mask.shape[-1] + 1).flatten().min(0)
    if int(n_key) > mask.shape[-1]:
        return None
    return Fewest(int(n_key), tuple(int(i) for i in torch.unravel_index(where, most.shape)[:-1]))
