"""What this machine reaches, measured: operations a second of large matrix products, bytes a second of large copies."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

_SIZES = (512, 1024, 2048)
_COPIED = 1 << 28
"""Bytes: far more than the caches hold."""


@dataclass(frozen=True)
class Ceilings:
    """The two ceilings of the roofline.

    Attributes:
        operations: floating-point operations a second, by dtype (`"float32"`, …); a multiplication and an addition are
            two.
        bytes: bytes read plus bytes written a second.
    """

    operations: dict[str, float]
    bytes: float

    def bounds(self, floor: Floor) -> dict[str, float]:
        """Seconds that the operations and the bytes of a floor take at the ceilings."""
        return {
            "operations": floor.operations / self.operations[floor.dtype],
            "bytes": floor.bytes / self.bytes,
        }


@dataclass(frozen=True)
class Floor:
    """What no way to the result spares: at least these operations and these bytes.

    Attributes:
        operations: floating-point operations.
        bytes: bytes that must be read or written once.
        formula: how they were counted.
        dtype: in which the operations run.
        kernel: a call that does only what is counted, where the machine's routine for it is far from the ceilings
            (factorisations of small matrices); it is timed beside ours.
    """

    operations: float | int
    bytes: float | int
    formula: str
    dtype: str = "float32"
    kernel: Callable[[], object] | None = None


def measure_ceilings(device: str = "cpu", *, repeats: int = 5, largest: int = _SIZES[-1]) -> Ceilings:
    """Return the best of a few matrix products and copies, with torch's present number of threads.

    Args:
        device: `"cpu"` or `"cuda"`.
        repeats: of each product and copy.
        largest: width of the largest product.
    """
    dtypes = [torch.float32, torch.float64] if device == "cpu" else [torch.float32, torch.bfloat16]
    sizes = [size for size in (_SIZES if device == "cpu" else (4096, 8192)) if size <= largest or device == "cuda"]
    operations = {}
    for dtype in dtypes:
        rates = []
        for size in sizes or [largest]:
            a, b = (torch.randn(size, size).to(device, dtype) for _ in range(2))
            c = torch.empty_like(a)
            seconds = _best(partial(torch.mm, a, b, out=c), device, repeats)
            rates.append(2 * size**3 / seconds)
        operations[str(dtype).removeprefix("torch.")] = max(rates)
    source = torch.zeros(_COPIED // 4, device=device)
    target = torch.zeros_like(source)
    seconds = _best(partial(target.copy_, source), device, repeats)
    return Ceilings(operations, 2 * _COPIED / seconds)


def _best(call: Callable[[], object], device: str, repeats: int) -> float:
    def once() -> float:
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    return min(once() for _ in range(repeats))
