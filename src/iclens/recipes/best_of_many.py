"""Means over few seeds, and what choosing the best of many does to them.

With five seeds and a dozen rows the best row's mean lies above the original's even where no row changes anything. Two
corrections that do not share an assumption: choose on data and seeds that are not reported (`nested`), and ask how
large the largest difference gets when the signs of whole seeds are flipped (`max_statistic`), which is exact when
without an effect a seed's differences are as likely to have either sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.errors import UserError
from iclens.intervals import LEVEL, Estimate

MOST_FLIPS = 2**12
"""Up to this number of sign patterns all are counted; beyond it, this number is drawn."""


def over_seeds(values: Float[Tensor, " n_seeds"], n_chosen_from: int = 1) -> Estimate:
    """Mean over seeds with Student's t interval.

    A percentile bootstrap of three or five numbers is far too narrow; the t interval is exact for normal ones.

    Args:
        values: one number a seed.
        n_chosen_from: Bonferroni: the number of rows for which the interval holds at once, at level 1 − 0.05 / n.

    Returns:
        the estimate; with one seed its ends are NaN.
    """
    from scipy.stats import t

    n = len(values)
    mean = float(values.double().mean()) if n else float("nan")
    if n < 2:
        return Estimate(mean, float("nan"), float("nan"), n)
    spread = float(values.double().std()) / n**0.5
    reach = spread * float(t.ppf(1 - (1 - LEVEL) / (2 * n_chosen_from), n - 1))
    return Estimate(mean, mean - reach, mean + reach, n)


def max_statistic(differences: Float[Tensor, "n_rows n_seeds"], seed: int = 0) -> Float[Tensor, " n_rows"]:
    """p-values of every row's mean difference being above 0, corrected for the choice among all rows.

    All rows of a seed are flipped together, since they share the original's run: p is the share of sign patterns whose
    largest mean is at least the row's (Westfall & Young 1993). With n seeds p is at least 2^−n. Each row is taken in
    units of its own root mean square, which no flip of signs changes: the mean then orders the patterns as Student's t
    of each does. By plain differences, or by the spread, a row that is far worse at every seed would hide the others.

    Args:
        differences: score minus the original's, by row and seed.
        seed: of the patterns, where not all are counted.
    """
    n_seeds = differences.shape[1]
    if 2**n_seeds <= MOST_FLIPS:
        signs = torch.tensor(list(product((1.0, -1.0), repeat=n_seeds)), dtype=torch.float64)
    else:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(0, 2, (MOST_FLIPS - 1, n_seeds), generator=generator).double() * 2 - 1
        signs = torch.cat([torch.ones(1, n_seeds, dtype=torch.float64), drawn])
    scaled = differences.double()
    # A row without any difference stays at 0.
    scaled = scaled / scaled.square().mean(1, keepdim=True).sqrt().clamp(min=1e-300)
    largest = (signs @ scaled.T / n_seeds).max(-1).values
    # The unflipped pattern is in the count: p is never 0, and rounding must not push it out.
    return (largest[:, None] >= scaled.mean(-1) - 1e-12).double().mean(0)


@dataclass(frozen=True)
class Nested:
    """The gain of "take the best row" on what was not used to choose it.

    Attributes:
        gain: score of the chosen row minus the original's, over seeds.
        chosen: how often each row was chosen, by its index.
    """

    gain: Estimate
    chosen: dict[int, int]


def nested(
    chosen_on: Float[Tensor, "n_rows n_seeds n_folds"], reported_on: Float[Tensor, "n_rows n_seeds n_folds"]
) -> Nested:
    """Nested selection: for every seed and fold, choose by the other seeds on one part of the data, report on the rest.

    For the reported seed s and fold f, the row with the highest mean of `chosen_on[:, ≠ s, f]` is chosen, and
    `reported_on[row, s, f]` is reported: neither the trained models nor the examples of the report had a say in the
    choice. With a single seed only the examples are separate.

    Args:
        chosen_on: differences to the original on the part that chooses.
        reported_on: differences on the part that reports.

    Raises:
        UserError: shapes that differ.
    """
    if chosen_on.shape != reported_on.shape:
        raise UserError(f"chosen_on {tuple(chosen_on.shape)} and reported_on {tuple(reported_on.shape)} must agree.")
    n_seeds, n_folds = chosen_on.shape[1:]
    counts: dict[int, int] = {}
    gains = torch.zeros(n_seeds, n_folds, dtype=torch.float64)
    for seed in range(n_seeds):
        others = [other for other in range(n_seeds) if other != seed] or [seed]
        for fold in range(n_folds):
            row = int(chosen_on[:, others, fold].double().mean(-1).argmax())
            counts[row] = counts.get(row, 0) + 1
            gains[seed, fold] = reported_on[row, seed, fold]
    return Nested(over_seeds(gains.mean(-1)), counts)


def halves(n: int, n_splits: int = 5, seed: int = 0) -> list[tuple[Int[Tensor, " a"], Int[Tensor, " b"]]]:
    """Random halves of n validation examples, each pair in both orders: what chooses, and what reports.

    Args:
        n: number of examples; at least 2.
        n_splits: number of random splits.
        seed: of the splits.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs: list[tuple[Tensor, Tensor]] = []
    for _ in range(n_splits):
        order = torch.randperm(n, generator=generator)
        first, second = order[: n // 2].sort().values, order[n // 2 :].sort().values
        pairs += [(first, second), (second, first)]
    return pairs
