"""Tensors in the hands of `torch.func`: vmap, grad and their like."""

from __future__ import annotations

import torch
from torch import Tensor


def is_transformed(*tensors: Tensor) -> bool:
    """Whether one of them stands for another tensor, so that it cannot be written to, nor asked for its numbers."""
    return any(torch._C._functorch.is_functorch_wrapped_tensor(x) for x in tensors)
