"""The largest tensor that a call forms, in any library."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _TooLargeError(Exception):
    pass


class _Largest(TorchDispatchMode):
    def __init__(self, most: float | int) -> None:
        super().__init__()
        self.elements, self.most = 0, most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                # Of an expanded view only what lies in memory.
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        if self.elements > self.most:
            raise _TooLargeError
        return output


def largest_tensor(call: Callable[[], object], most: float | int = math.inf) -> int:
    """Give the number of elements of the largest tensor that an operation of torch returns during a call.

    What a fused kernel keeps inside does not show.

    Args:
        call: a call that ends well.
        most: the call is stopped by the first tensor with more elements, which is then given: the next one might take
            all memory.
    """
    largest = _Largest(most)
    try:
        with largest:
            call()
    except _TooLargeError:
        pass
    return largest.elements
