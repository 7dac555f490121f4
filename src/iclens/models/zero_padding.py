"""Parameters of a transformer with few heads inside one with more: the others are zero and stay zero."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad


def with_heads(name: str, value: Tensor, before: int, after: int, head_width: int) -> Tensor:
    """A parameter of a `PromptTransformer` with another number of heads: zeros are added or the last heads cut off.

    Args:
        name: the parameter's name.
        value: (runs, ...), with `before` heads.
        before: number of heads it has.
        after: number of heads it shall have.
        head_width: width of a head.
    """
    # (shape with the heads apart, axis of the heads, counted from the end)
    apart: tuple[int, ...]
    if name.endswith(("qkv.weight", "qkv.bias")):
        apart, axis = (*value.shape[:-1], 3, before, head_width), -2
    elif name.endswith(".out.weight"):
        apart, axis = (value.shape[0], before, head_width, value.shape[-1]), -3
    elif ".of_runs." in name and value.ndim == 2:
        apart, axis = tuple(value.shape), -1
    else:
        return value
    split = value.reshape(apart)
    added = (0, 0) * (-axis - 1) + (0, after - before)
    split = pad(split, added) if after > before else split.narrow(axis, 0, after)
    if axis == -1:
        return split
    # What was one axis (3 · heads · width, or heads · width) becomes one again.
    return split.flatten(-3) if axis == -2 else split.flatten(-3, -2)
