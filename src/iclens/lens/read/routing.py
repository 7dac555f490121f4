"""Which experts the tokens of a pass go to, held in another pass over the same tokens.

In half precision rounding may decide between two experts, so that two passes over one prompt that are both right differ
by more than rounding. Checks that compare two passes therefore give the second one the choices of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from iclens.lens.model.loading import LensModel
from iclens.lens.read.tolerance import is_half

Routes = dict[nn.Module, tuple[Tensor, ...]]
"""A router, or the gate on a shared expert -> what it returned, each (batch · n, ·)."""


@contextmanager
def recording_routes(lens_model: LensModel) -> Iterator[Routes]:
    """Give what the routers of a model in half precision return inside the block; nothing in other types."""
    routes: Routes = {}

    def record(module: nn.Module, args: Any, output: Any) -> None:
        routes[module] = tuple(part.detach() for part in _parts(output))

    held = {module for layer in lens_model.anatomy.layers for module in layer.held}
    with ExitStack() as stack:
        for module in held if is_half(lens_model.dtype) else ():
            stack.callback(module.register_forward_hook(record).remove)
        yield routes


@contextmanager
def routed_as(
    routes: Routes, put: Callable[[Tensor, Tensor], Tensor] = lambda own, kept: kept.to(own.device)
) -> Iterator[None]:
    """Let routers return inside the block what they returned before.

    `put` makes it from what a router returns here and what was kept; by default it is what was kept.
    """

    def replace(module: nn.Module, args: Any, output: Any) -> Any:
        parts = tuple(put(own, kept) for own, kept in zip(_parts(output), routes[module], strict=True))
        return parts if isinstance(output, tuple) else parts[0]

    with ExitStack() as stack:
        for module in routes:
            stack.callback(module.register_forward_hook(replace).remove)
        yield


def _parts(output: Any) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)
