"""A model's activations in one pass over memory for a while, where transformers spells them out in eight.

GPT-2's GELU, ½ u (1 + tanh(√(2/π) (u + 0.044715 u³))), is PyTorch's `gelu` with `approximate="tanh"`: the same formula,
equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch.nn import functional

from iclens.lens.model.loading import LensModel

_SPELT_OUT = ("NewGELUActivation", "FastGELUActivation")
"""Classes of transformers that compute this formula pass by pass."""


@contextmanager
def fused_activations(lens_model: LensModel) -> Iterator[None]:
    """Compute these activations by PyTorch's own kernel inside the `with` block; everything is put back afterwards.

    An activation whose `forward` somebody else has replaced is left alone.
    """
    modules = [
        module
        for module in lens_model.model.modules()
        if type(module).__name__ in _SPELT_OUT and "forward" not in vars(module)
    ]
    try:
        for module in modules:
            module.forward = partial(functional.gelu, approximate="tanh")
        yield
    finally:
        for module in modules:
            vars(module).pop("forward", None)
