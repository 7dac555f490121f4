"""Which keys each query's dual model is trained on: those that the query may attend to, in the order of the tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from iclens.attention.attending import Attending
from iclens.attention.transformed import is_transformed


class TrainingSets(NamedTuple):
    """What the training sets of all queries have in common.

    Attributes:
        growing: whether each is the beginning of one common list, the visible keys: then one run of the optimizer
            serves all queries. Causal masks and padding give this; sliding windows and packed sequences do not.
        visible: True for the keys of that list, (..., heads or 1, n_key); None for all keys.
    """

    growing: bool
    visible: Tensor | None

    @staticmethod
    def of(attending: Attending, device: torch.device) -> TrainingSets:
        """Look at the mask; a program that is compiled, captured or transformed cannot, and takes none for granted."""
        mask = attending.mask
        if mask is None:
            return TrainingSets(True, None)
        if mask.shape[-2] == 1:
            return TrainingSets(True, mask[..., 0, :])
        if torch.compiler.is_compiling() or is_transformed(mask):
            return TrainingSets(False, None)
        if mask.is_cuda and torch.cuda.is_current_stream_capturing():
            return TrainingSets(False, None)
        allowed = seen_keys(attending, device)
        visible = allowed.any(-2)
        return TrainingSets(bool((allowed == (visible.unsqueeze(-2) & reach(allowed))).all()), visible)


def seen_keys(attending: Attending, device: torch.device) -> Tensor:
    """True for the keys of each query's training set, (..., heads or 1, n_query or 1, n_key).

    The axis of the queries is 1 where all have the same.
    """
    allowed = attending.allowed(device)
    if allowed is None:
        allowed = torch.ones(1, attending.n_key, dtype=torch.bool, device=device)
    return allowed if allowed.ndim > 2 else allowed.unsqueeze(0)


def reach(seen: Tensor) -> Tensor:
    """True for the keys up to the last that a query sees, of the shape of `seen`."""
    return seen.flip(-1).cumsum(-1).flip(-1) > 0


def has_heads(attending: Attending) -> bool:
    """Whether query heads that share their keys may have different masks."""
    return attending.mask is not None and attending.mask.ndim > 2 and attending.mask.shape[-3] > 1
