"""Where weights and numbers are, and in which precision: models split over devices, or kept elsewhere until needed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


def wide(x: torch.Tensor) -> torch.Tensor:
    """Return the numbers in no less than single precision: ours add no rounding to a model's in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def doubled(x: torch.Tensor) -> torch.Tensor:
    """Return the numbers in float64, on their device or, where that has no float64, in memory."""
    return (x if has_double(x.device) else x.cpu()).double()


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the numbers in some type; float64 as `doubled`."""
    return doubled(x) if dtype == torch.float64 else x.to(dtype)


def has_double(device: torch.device) -> bool:
    """Return whether a device computes in float64; Apple's does not."""
    return device.type != "mps"


def at_hand(module: nn.Module | None) -> AbstractContextManager[Any]:
    """The module's own weights can be read inside, on the device where it computes.

    A module that accelerate keeps elsewhere until its turn (`device_map` with offloading) holds no weights between
    its calls: they are brought for the block and let go after it. For any other module nothing happens.
    """
    if getattr(module, "_hf_hook", None) is None:
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module)


def home_of(model: nn.Module) -> torch.device:
    """Where token ids go in: the device of the first weights that are held, or where the model computes."""
    held = [parameter.device for parameter in model.parameters() if parameter.device.type != "meta"]
    device = held[0] if held else getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    return torch.device("cpu" if device is None else device)
