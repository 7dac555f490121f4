"""Curves of a table: a mean and its interval over seeds at every position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from iclens.intervals import Estimate
from iclens.recipes.best_of_many import over_seeds
from iclens.recipes.table import Table


@dataclass(frozen=True, eq=False)
class Curve:
    """Means with Student's t intervals over seeds.

    Attributes:
        x: positions, ascending.
        mean: the mean at each.
        low: lower end of its 95 % interval, NaN with one seed.
        high: upper end.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def seed_mean(values: np.ndarray) -> Estimate:
    """Mean of one number a seed, with its 95 % interval; NaN marks a number that is undefined and is left out."""
    return over_seeds(torch.from_numpy(values[~np.isnan(values)]))


def seed_estimate(table: Table, y: str) -> Estimate:
    """Mean of column `y` with its 95 % interval; one row is one seed.

    Rows without a number in `y` are left out.
    """
    return seed_mean(table.column(y))


def seed_curve(table: Table, x: str, y: str) -> Curve:
    """`y` against `x`; the rows that share a position are the seeds.

    Args:
        table: one row a position and seed.
        x: a numeric column.
        y: a numeric column.
    """
    at, values = table.column(x), table.column(y)
    positions = np.unique(at[~np.isnan(at) & ~np.isnan(values)])
    found = [seed_mean(values[at == position]) for position in positions]
    ends = np.array([(entry.mean, entry.low, entry.high) for entry in found]).reshape(-1, 3)
    return Curve(positions, *ends.T)
