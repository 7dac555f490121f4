"""A device that refuses float64, as Apple's does, played by tensors of the processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

MPS = torch.device("mps")


class OnMps(Tensor):
    """A tensor that says that it lies on `mps`."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return MPS


def to_mps(x: Tensor) -> Tensor:
    if x.dtype in (torch.float64, torch.complex128):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    return x.as_subclass(OnMps)


def to_cpu(x: Any) -> Any:
    return x.as_subclass(Tensor) if isinstance(x, OnMps) else x


class _Device(TorchFunctionMode):
    """Runs everything on the processor, and keeps track of what would lie on `mps`.

    What custom functions save for their backward pass comes back plain, so that nothing is told apart there.
    """

    def __init__(self, backwards: bool = False) -> None:
        super().__init__()
        self.backwards = backwards

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func == Tensor.T.__get__ and isinstance(args[0], OnMps):
            return to_mps(itself(func, args, kwargs))
        if name in ("__get__", "__set__", "requires_grad_", "register_hook"):
            return itself(func, args, kwargs)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = any(isinstance(x, OnMps) for x in tensors)
        if name in ("to", "cpu", "double", "type_as"):
            return self._move(name, func, args, kwargs, there)
        if torch.device(kwargs.get("device") or "cpu") == MPS:
            kwargs["device"], there = torch.device("cpu"), True
        if (
            there
            and not self.backwards
            and any(not isinstance(x, OnMps) and x.ndim > 0 for x in tensors)
            and name not in ("__setitem__",)
        ):
            raise RuntimeError(f"{name}: Expected all tensors to be on the same device, mps and cpu were found.")
        if name == "grad":
            outputs, leaves = args
            ones = tuple(itself(torch.ones_like, (one,), {}) for one in outputs)
            # The engine itself, since a function that handles a mode runs without it, also in its backward passes.
            with _Device(backwards=True):
                found = _engine_run_backward(tuple(outputs), ones, False, False, tuple(leaves), False, False)
            return tree_map(to_mps if there else to_cpu, found)
        if name == "backward":
            with _Device(backwards=True):
                _engine_run_backward(tuple(args), (itself(torch.ones_like, args, {}),), False, False, (), True, True)
            return None
        found = func(*tree_map(to_cpu, args), **tree_map(to_cpu, kwargs))
        return tree_map(lambda x: to_mps(x) if isinstance(x, Tensor) else x, found) if there else found

    def _move(self, name: str, func: Any, args: Any, kwargs: Any, there: bool) -> Any:
        x, *rest = args
        given = [*rest, *kwargs.values()]
        target = MPS if isinstance(x, OnMps) else torch.device("cpu")
        for one in given:
            if isinstance(one, Tensor):
                target = one.device
            elif isinstance(one, torch.device | str):
                target = torch.device(one)
        if name == "cpu":
            target = torch.device("cpu")

        def plain(one: Any) -> Any:
            return torch.device("cpu") if isinstance(one, torch.device | str) else to_cpu(one)

        moved = func(to_cpu(x), *map(plain, rest), **{key: plain(one) for key, one in kwargs.items()})
        return to_mps(moved) if target == MPS else moved


def itself(func: Any, args: Any, kwargs: Any) -> Any:
    """Call with the tensors themselves, for what is kept on them."""
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


@contextmanager
def device_without_float64(model: nn.Module) -> Iterator[None]:
    """Put a model on that device inside the block."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = to_mps(parameter.detach())  # type: ignore[assignment]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = to_mps(buffer)
    with _Device():
        yield
