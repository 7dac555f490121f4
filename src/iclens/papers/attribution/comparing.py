"""Comparisons of scores over prompts: means, paired differences, and which are best within a number of passes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import torch

from iclens.intervals import Estimate, estimate
from iclens.papers.attribution.removal import MASKED
from iclens.recipes.table import Table

NEEDS_LABELS = ("label_surprise", "label_surprise_orders", "label_doubt", "detail", "detail_self")
"""Scores that must be told labels, or need demonstrations with labels."""

Unit = tuple[object, ...]


def units(table: Table, measure: str) -> dict[str, dict[Unit, float]]:
    """By method, one number for every prompt that has it.

    An LDS is undefined where all scores are the same: they predict nothing, which counts as 0.
    """
    found: dict[str, dict[Unit, float]] = defaultdict(dict)
    for row in table:
        value = row.get(measure)
        if isinstance(value, int | float):
            if value != value:
                if not measure.startswith("lds"):
                    continue
                value = 0.0
            unit = (row["study"], row["task"], row["size"], row["number"], row.get("prompt"))
            found[str(row["method"])][unit] = float(value)
    return dict(found)


def difference(table: Table, measure: str, one: str, other: str) -> Estimate:
    """Return the paired difference of two methods, over prompts that have both, with a bootstrap interval."""
    found = units(table, measure)
    first, second = found.get(one, {}), found.get(other, {})
    return estimate(torch.tensor([first[unit] - second[unit] for unit in first if unit in second], dtype=torch.float64))


def mean(table: Table, measure: str, method: str) -> Estimate:
    """Return the mean of one method over prompts, with a bootstrap interval."""
    return estimate(torch.tensor(list(units(table, measure).get(method, {}).values()), dtype=torch.float64))


def means_of(table: Table, measure: str) -> dict[str, float]:
    """Return the mean of every method over prompts."""
    return {name: sum(own.values()) / len(own) for name, own in units(table, measure).items()}


def of_tasks(table: Table, tasks: Collection[str], **cells: object) -> Table:
    """Return the rows of some tasks with these cells."""
    return Table(
        row for row in table if row["task"] in tasks and all(row[name] == value for name, value in cells.items())
    )


def passes(table: Table) -> dict[str, float]:
    """Mean forward and backward passes of every method."""
    backward = means_of(table, "backward")
    return {name: forward + backward[name] for name, forward in means_of(table, "forward").items()}


def ranked(table: Table, limit: float, among: Sequence[str] | None = None) -> dict[str, float]:
    """Scores of at most `limit` passes by their mean LDS over tasks and sizes, the best first; of prompts alone.

    Only those that were measured on every prompt of the table count.
    """
    found, cost = units(table, "lds"), passes(table)
    everywhere = max((len(values) for values in found.values()), default=0)
    means: dict[str, float] = {}
    for name, values in found.items():
        excluded = name in (*NEEDS_LABELS, "random", MASKED) or (among is not None and name not in among)
        if excluded or len(values) < everywhere or not cost[name] <= limit:
            continue
        means[name] = _over_cells(values)
    return dict(sorted(means.items(), key=lambda one: -one[1]))


def _over_cells(values: Mapping[Unit, float]) -> float:
    cells: dict[tuple[object, object], list[float]] = defaultdict(list)
    for (_, task, size, *_), value in values.items():
        cells[task, size].append(value)
    return sum(sum(some) / len(some) for some in cells.values()) / len(cells)
