"""What an identity is, and how all of them are checked."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from iclens.errors import UserError
from iclens.registry import Registry


@dataclass(frozen=True)
class Setting:
    """Where and how an identity is checked.

    Attributes:
        dtype: float64 or float32.
        device: e.g. `"cpu"`.
        seed: every identity starts its own generator from it.
    """

    dtype: torch.dtype = torch.float64
    device: str = "cpu"
    seed: int = 0

    def generator(self) -> torch.Generator:
        """A fresh generator on the CPU: the same inputs on every device."""
        return torch.Generator().manual_seed(self.seed)

    def randn(self, generator: torch.Generator, *shape: int) -> Tensor:
        """Standard normal numbers, drawn in float64 on the CPU and then cast."""
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(self.device, self.dtype)


@dataclass(frozen=True)
class Identity:
    """One statement and the function that measures how far it is from true.

    Attributes:
        name: short name.
        statement: what is claimed.
        source: paper and theorem, or "derived" with the page of the derivation.
        tolerance: largest residual in float64.
        tolerance_single: largest residual in float32; None when the statement is only checked in float64.
        residual: returns the largest relative residual found, in units of the tolerance's scale.
        requires: modules that must be installed.
    """

    name: str
    statement: str
    source: str
    tolerance: float
    tolerance_single: float | None
    residual: Callable[[Setting], float]
    requires: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """The outcome of one identity.

    Attributes:
        identity: what was checked.
        residual: what was found; NaN counts as a failure.
        tolerance: what was allowed.
        seconds: how long it took.
        skipped: why it was not run, or None.
    """

    identity: Identity
    residual: float
    tolerance: float
    seconds: float
    skipped: str | None = None

    @property
    def holds(self) -> bool:
        """True when the residual is a number within the tolerance; a skipped check does not count as holding."""
        return self.skipped is None and self.residual <= self.tolerance


IDENTITIES: Registry[Identity] = Registry("identity", "iclens.identities", package="iclens.identities", papers=True)


R = TypeVar("R", bound=Callable[[Setting], float | Iterator[float]])


def identity(
    name: str,
    *,
    statement: str,
    source: str,
    tolerance: float = 1e-12,
    tolerance_single: float | None = None,
    requires: tuple[str, ...] = (),
) -> Callable[[R], R]:
    """Register a function `(setting) -> residual` as an identity; the arguments are the fields of `Identity`.

    The function may also yield residuals one by one: the largest counts.
    """

    def add(residual: R) -> R:
        def largest(setting: Setting) -> float:
            found = residual(setting)
            return worst(found) if isinstance(found, Iterator) else found

        entry = Identity(name, statement, source, tolerance, tolerance_single, largest, requires)
        IDENTITIES.register(name)(entry)
        return residual

    return add


def relative(found: Tensor, expected: Tensor) -> float:
    """max |found − expected| / max |expected|, NaN if either holds one."""
    size = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float(((found - expected).abs().max() / size).item())


def worst(residuals: Iterator[float]) -> float:
    """The largest residual, NaN if there is any (`max` alone would lose it)."""
    values = list(residuals)
    return math.nan if any(math.isnan(value) for value in values) else max(values)


def check_all(setting: Setting, only: tuple[str, ...] = ()) -> Iterator[Check]:
    """Check every registered identity, or the named ones, one after another.

    Raises:
        UserError: an unknown name, dtype or device.
    """
    if setting.dtype not in (torch.float32, torch.float64):
        raise UserError(f"dtype {setting.dtype} is not checked: use float64 or float32.")
    try:
        torch.empty(1, device=setting.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"the device {setting.device!r} is not available: {str(error).splitlines()[0]}") from None
    for name in only or IDENTITIES:
        yield _check(IDENTITIES[name], setting)


def _check(entry: Identity, setting: Setting) -> Check:
    tolerance = entry.tolerance if setting.dtype == torch.float64 else entry.tolerance_single
    if tolerance is None:
        return Check(entry, math.nan, entry.tolerance, 0.0, "stated for float64 only")
    missing = [name for name in entry.requires if importlib.util.find_spec(name) is None]
    if missing:
        return Check(entry, math.nan, tolerance, 0.0, f"{missing[0]} is not installed")
    start = time.perf_counter()
    residual = float(entry.residual(setting))
    return Check(entry, residual, tolerance, time.perf_counter() - start)
