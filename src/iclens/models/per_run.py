"""Options that differ from run to run of one ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from iclens.errors import UserError

T = TypeVar("T")


class PerRun(Generic[T]):
    """One value for each run.

    Attributes:
        values: in the order of the runs.
    """

    def __init__(self, values: Sequence[T]) -> None:
        self.values = list(values)


def for_runs(name: str, value: T | PerRun[T], n_runs: int) -> list[T]:
    """Return the value of every run.

    Raises:
        UserError: a `PerRun` of another number of runs.
    """
    if not isinstance(value, PerRun):
        return [value] * n_runs
    if len(value.values) != n_runs:
        raise UserError(f"{name} has values for {len(value.values)} runs; there are {n_runs}.")
    return value.values
