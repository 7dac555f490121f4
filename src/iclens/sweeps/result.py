"""What is known of a finished run besides its configuration and parameters: what was measured, and how it ended."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from iclens.errors import UserError
from iclens.training.metric import Metric

if TYPE_CHECKING:
    from iclens.training.loop import TrainedRun

_MOST = 2**53
"""JSON readers of other languages round larger numbers."""


def _torch_version() -> str:
    import torch

    return torch.__version__


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        status: `finished`, or `diverged`: its parameters are those of `last_finite_step`.
        seconds: wall-clock time of its training (of a run in an ensemble: its share).
        last_finite_step: the last step after which parameters and loss were finite.
        device: where it was computed, e.g. `cpu`.
        note: a remark, e.g. why it diverged.
        machine: host name, processor and operating system.
        iclens: version.
        torch: version.
        ended: time in UTC, ISO 8601.
        final: the last value of each metric, filled by the store; as `name@prefix`, that of its longest prefix, where
            it has no value of whole prompts.
        processes: how many shared its training.
        number: its place in the order in which the runs of its store were added, filled by the store: larger than that
            of every run that was there. Unlike `ended` it does not depend on clocks. 0 before.
    """

    status: Literal["finished", "diverged"]
    seconds: float
    last_finite_step: int
    device: str = "cpu"
    note: str = ""
    machine: str = field(default_factory=lambda: f"{platform.node()} {platform.machine()} {platform.system()}")
    iclens: str = field(default_factory=lambda: version("iclens"))
    torch: str = field(default_factory=_torch_version)
    ended: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    final: Mapping[str, float] = field(default_factory=dict)
    processes: int = 1
    number: int = 0

    def __post_init__(self) -> None:
        if self.status not in ("finished", "diverged"):
            raise UserError(f"status={self.status!r} of a run must be 'finished' or 'diverged'.")
        if not 0 <= self.seconds < math.inf:
            raise UserError(f"seconds={self.seconds} of a run must be finite and not negative.")
        if self.last_finite_step < 0:
            raise UserError(f"last_finite_step={self.last_finite_step} of a run must not be negative.")

        if type(self.processes) is not int or not 1 <= self.processes < _MOST:
            raise UserError(f"processes={self.processes!r} of a run must be a whole number, 1 or more.")
        if type(self.number) is not int or not 0 <= self.number < _MOST:
            raise UserError(f"number={self.number!r} of a run must be a whole number, 0 or more.")

    @property
    def order(self) -> tuple[int, str]:
        """Sorts runs of one store as they were added; those that took one number at once, by their time."""
        return self.number, self.ended

    def to_json(self) -> str:
        """Text that `from_json` reads; numbers that are not finite are written as strings."""
        final = {name: value if math.isfinite(value) else str(value) for name, value in self.final.items()}
        return json.dumps({**asdict(self), "final": final}, ensure_ascii=False, allow_nan=False)

    @staticmethod
    def from_json(text: str | bytes) -> Result:
        """Return the inverse of `to_json`.

        Raises:
            ValueError: the text is not a result.
        """
        return Result.from_plain(json.loads(text))

    @staticmethod
    def from_plain(data: Any) -> Result:
        """Return a result from the values of its JSON text.

        Raises:
            ValueError: they are not those of a result.
        """
        if not isinstance(data, dict) or data.keys() != _NAMES or not isinstance(data["final"], dict):
            raise ValueError("not a result")
        return Result(**{**data, "final": {name: float(value) for name, value in data["final"].items()}})


def result_of(one: TrainedRun, device: str) -> Result:
    """How a trained run ended, as a store keeps it."""
    last = one.config.training.steps if one.diverged_at is None else one.diverged_at
    return Result(status=one.status, seconds=one.seconds, last_finite_step=last, device=device)


_NAMES = {item.name for item in fields(Result)}


def metric_of(row: tuple[Any, ...]) -> Metric:
    """Return a row (step, name, prefix or None, value) of plain numbers or tensors as a `Metric`.

    Raises:
        UserError: it is none.
    """
    try:
        step, name, prefix, value = row
        metric = Metric(int(step), name, None if prefix is None else int(prefix), float(value))
    except (TypeError, ValueError):
        raise UserError(f"{row!r} is not a metric: give (step, name, prefix or None, value).") from None
    if not isinstance(name, str) or not name or metric.step < 0 or (metric.prefix or 0) < 0:
        raise UserError(f"{row!r} is not a metric: its name must be a text, step and prefix must not be negative.")
    return metric


def final_values(metrics: Iterable[Metric]) -> dict[str, float]:
    """Return the last value of each metric, see `Result.final`; of equal steps the later row counts."""
    whole: dict[str, Metric] = {}
    by_prefix: dict[str, Metric] = {}
    for metric in metrics:
        chosen = whole if metric.prefix is None else by_prefix
        before = chosen.get(metric.name)
        if before is None or (metric.step, metric.prefix or 0) >= (before.step, before.prefix or 0):
            chosen[metric.name] = metric
    shown = {name: metric.value for name, metric in whole.items()}
    return shown | {f"{name}@{row.prefix}": row.value for name, row in by_prefix.items() if name not in whole}
