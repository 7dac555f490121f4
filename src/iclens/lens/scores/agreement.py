"""How far two ways to score the demonstrations agree."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from iclens.lens.explanation import Agreement


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation in [−1, 1]; None when it is undefined (fewer than two scores, or all tied)."""
    if len(first) < 2 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    value = float(spearmanr(first, second).statistic)
    return None if math.isnan(value) else value


def top_k(first: Sequence[float], second: Sequence[float], k: int) -> float:
    """Share of common indices among the k largest of either, in [0, 1]; ties go to the earlier index.

    >>> top_k([3.0, 2.0, 1.0], [1.0, 2.0, 3.0], 2)
    0.5
    """
    leading = [set(np.argsort(-np.asarray(scores), kind="stable")[:k].tolist()) for scores in (first, second)]
    return len(leading[0] & leading[1]) / k


def n_top(n_demonstrations: int) -> int:
    """How many demonstrations count as the top ones: half of them, but 1 to 3."""
    return max(1, min(3, n_demonstrations // 2))


def agreements(scores: Mapping[str, Sequence[float]]) -> tuple[Agreement, ...]:
    """Agreement of every pair of methods, for each method one score a demonstration."""
    k = n_top(len(next(iter(scores.values()))))
    return tuple(
        Agreement(one, other, spearman(scores[one], scores[other]), top_k(scores[one], scores[other], k), k)
        for one, other in itertools.combinations(scores, 2)
    )
