"""What a sweep runs: one configuration for every combination of the values in its `[sweep]` table."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from iclens.errors import UserError
from iclens.training.config import RunConfig
from iclens.training.dotted_paths import assign, join_path, split_path

MAX_RUNS = 1_000_000
"""A sweep of more runs is refused: it is a slip of the keyboard."""


@dataclass(frozen=True)
class Axis:
    """Values that change together.

    Attributes:
        paths: what changes.
        points: the values of all paths at each place of the axis.
    """

    paths: tuple[str, ...]
    points: tuple[tuple[Any, ...], ...]


def expand(data: Mapping[str, Any]) -> list[RunConfig]:
    """Return all runs of a configuration with a `[sweep]` table; without one, the one run that it describes.

    The table's keys are paths and its values lists, `{range = n}` (0 … n − 1) or `{start, stop, step}` (stop left out):

    ```toml
    [sweep]
    "training.learning_rate" = [1e-3, 3e-3]
    seed = {range = 8}

    [[sweep.together]]                # these change in step, value by value
    "model.width" = [16, 32]
    "model.n_heads" = [1, 2]
    ```

    The runs are the Cartesian product of the axes in the order of the file; the last axis varies fastest.

    Raises:
        UserError: a path that is not in the configuration, is given twice or lies inside another one; values that are
            not a list, lists in `together` of different lengths, an impossible run, or two equal ones; the message
            names the path.
    """
    base = {key: value for key, value in data.items() if key != "sweep"}
    axes = axes_of(data.get("sweep", {}))
    n_runs = math.prod(len(axis.points) for axis in axes)
    if n_runs > MAX_RUNS:
        raise UserError(f"the sweep has {n_runs} runs; at most {MAX_RUNS} are allowed.")
    configs: list[RunConfig] = []
    seen: dict[str, str] = {}
    for point in itertools.product(*(axis.points for axis in axes)):
        values = {
            path: value
            for axis, chosen in zip(axes, point, strict=True)
            for path, value in zip(axis.paths, chosen, strict=True)
        }
        run = copy.deepcopy(base)
        shown = ", ".join(f"{path}={value!r}" for path, value in values.items())
        try:
            for path, value in values.items():
                assign(run, path, copy.deepcopy(value))
            config = RunConfig.from_dict(run)
        except UserError as error:
            raise UserError(f"sweep, at {shown}: {error}" if values else str(error)) from None
        key = config.key()
        if key in seen:
            raise UserError(f"the sweep has the same run twice: at {seen[key]}, and at {shown}.")
        seen[key] = shown
        configs.append(config)
    return configs


def axes_of(sweep: Any) -> list[Axis]:
    """Return the axes of a `[sweep]` table, in its order.

    Raises:
        UserError: see `expand`.
    """
    if not isinstance(sweep, Mapping):
        raise UserError(f"sweep must be a table of paths and lists, not {sweep!r}.")
    axes: list[Axis] = []
    for key, value in sweep.items():
        if key == "together":
            if not (isinstance(value, Sequence) and all(isinstance(item, Mapping) and item for item in value)):
                raise UserError("sweep.together must be tables of paths and lists: write [[sweep.together]].")
            axes += [_together(table) for table in value]
        else:
            axes += [Axis((path,), tuple((item,) for item in values)) for path, values in _lists({key: value}).items()]
    _check_apart([path for axis in axes for path in axis.paths])
    return axes


def _together(table: Mapping[str, Any]) -> Axis:
    lists = _lists(table)
    lengths = {path: len(values) for path, values in lists.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{path} has {length}" for path, length in lengths.items())
        raise UserError(f"lists in sweep.together must be equally long: {shown}.")
    return Axis(tuple(lists), tuple(zip(*lists.values(), strict=True)))


def _lists(table: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the values of every path in a table whose keys are quoted paths, or keys of nested tables, or both."""
    lists: dict[str, list[Any]] = {}
    for key, value in table.items():
        path = join_path(split_path(key))
        if isinstance(value, Mapping) and not _is_range(value):
            if not value:
                raise UserError(f"sweep.{path} is empty: give it a list of values.")
            found = {f"{path}.{inner}": values for inner, values in _lists(_quoted_keys(value)).items()}
        else:
            found = {path: _values(path, value)}
        for one, values in found.items():
            if one in lists:
                raise UserError(f"the sweep sets {one} twice.")
            lists[one] = values
    return lists


def _quoted_keys(table: Mapping[str, Any]) -> dict[str, Any]:
    return {join_path((key,)): value for key, value in table.items()}


def _is_range(table: Mapping[str, Any]) -> bool:
    """Return whether a table is a range, not a table of further paths: those hold lists or tables."""
    known = set(table) in ({"range"}, {"start", "stop"}, {"start", "stop", "step"})
    return known and not any(isinstance(value, list | Mapping) for value in table.values())


def _values(path: str, value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        values = _range(path, value)
    elif isinstance(value, list | tuple):
        values = list(value)
    else:
        raise UserError(f"sweep.{path}={value!r} must be a list of values, {{range = n}} or {{start, stop, step}}.")
    if not values:
        raise UserError(f"sweep.{path} is empty: give it at least one value.")
    return values


def _range(path: str, table: Mapping[str, Any]) -> list[Any]:
    limits = {"start": 0, "stop": table.get("range"), "step": 1, **{k: v for k, v in table.items() if k != "range"}}
    for name, value in limits.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise UserError(f"sweep.{path}: {name}={value!r} must be a number.")
    if "range" in table and not isinstance(table["range"], int):
        raise UserError(f"sweep.{path}: range={table['range']!r} must be a whole number.")
    if limits["step"] == 0:
        raise UserError(f"sweep.{path}: step must not be 0.")
    # Decimal, because 3 · 0.1 is not 0.3.
    start, stop, step = (Decimal(str(limits[name])) for name in ("start", "stop", "step"))
    count = max(0, math.ceil((stop - start) / step))
    if count > MAX_RUNS:
        raise UserError(f"sweep.{path} has {count} values; at most {MAX_RUNS} are allowed.")
    number = int if all(isinstance(value, int) for value in limits.values()) else float
    return [number(start + index * step) for index in range(count)]


def _check_apart(paths: Sequence[str]) -> None:
    split = sorted((split_path(path), path) for path in paths)
    for (first, path), (second, other) in itertools.pairwise(split):
        if first == second:
            raise UserError(f"the sweep sets {path} twice.")
        if second[: len(first)] == first:
            raise UserError(f"the sweep sets {path} and {other}, which lies inside it.")
