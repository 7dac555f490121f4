"""How far scores agree with each other, and how well they predict what the model does: AUC, LDS, the removal test."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

from iclens.lens.facts import Agreement, Faithfulness
from iclens.lens.scores.deletions import Outcome

_LEVEL = 1e-9
"""Difference of two scores, over the largest, below which their order is rounding."""


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
    """Return how many demonstrations count as the top ones: half of them, but 1 to 3."""
    return max(1, min(3, n_demonstrations // 2))


def agreements(scores: Mapping[str, Sequence[float]]) -> tuple[Agreement, ...]:
    """Agreement of every pair of methods, for each method one score a demonstration.

    Scores that differ by less than `_LEVEL` of the largest are tied: their order is rounding.
    """
    k = n_top(len(next(iter(scores.values()))))
    level = {name: _level(row) for name, row in scores.items()}
    return tuple(
        Agreement(one, other, spearman(level[one], level[other]), top_k(level[one], level[other], k), k)
        for one, other in itertools.combinations(scores, 2)
    )


def _level(row: Sequence[float]) -> list[float]:
    unit = _LEVEL * max(map(abs, row), default=0.0)
    return [float(round(value / unit)) for value in row] if 0.0 < unit < math.inf else list(row)


def auc(
    scores: Float[Tensor, "*batch n_demonstrations"], relevant: Bool[Tensor, "*batch n_demonstrations"]
) -> Float[Tensor, "*batch"]:
    """Probability that a relevant demonstration scores above one that is not; ties count one half.

    The area under the ROC curve, by the Mann–Whitney statistic; NaN where all or none are relevant.
    """
    wide = scores.double()
    one, other = wide[..., :, None], wide[..., None, :]
    above = (one > other).double() + 0.5 * (one == other).double()
    pairs = (relevant[..., :, None] & ~relevant[..., None, :]).double()
    return (above * pairs).sum((-1, -2)) / pairs.sum((-1, -2))


def random_subsets(generator: torch.Generator, n_subsets: int, n_demonstrations: int) -> Bool[Tensor, "n_subsets n"]:
    """Keep-masks of random subsets, each demonstration kept with probability ½."""
    return torch.rand(n_subsets, n_demonstrations, generator=generator) < 0.5


def lds(
    scores: Float[Tensor, " n_demonstrations"],
    keep: Bool[Tensor, "n_subsets n_demonstrations"],
    margins: Float[Tensor, " n_subsets"],
) -> float | None:
    """Linear datamodeling score: does the sum of the kept scores rank the margins of shortened prompts?

    Spearman's rank correlation over the subsets, in [−1, 1]; None when undefined (all sums or all margins tied).

    Source: Park et al. 2023, "TRAK", definition 2.3.
    """
    return spearman((keep.double() @ scores.double().cpu()).tolist(), margins.tolist())


def top(scores: Float[Tensor, " n_demonstrations"], k: int) -> Bool[Tensor, " n_demonstrations"]:
    """Return the k highest scores; ties go to the earlier demonstration."""
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    chosen[scores.argsort(descending=True, stable=True)[:k].cpu()] = True
    return chosen


def faithfulness(
    rerun: Callable[[Sequence[Iterable[int]]], Outcome],
    scores: Mapping[str, Sequence[float]],
    full_margin: float,
    generator: torch.Generator,
    n_demonstrations: int,
    n_subsets: int = 32,
) -> tuple[Faithfulness, ...]:
    """LDS and the removal test of several methods on one prompt, by really deleting text.

    All methods share the random subsets. The removal test deletes the k = max(1, min(3, n/2)) highest-scored
    demonstrations; subsets that several methods ask for run once.

    Args:
        rerun: runs the model on the prompt without the text of each set of demonstrations.
        scores: for each method one score per demonstration.
        full_margin: the margin of the whole prompt.
        generator: draws the subsets.
        n_demonstrations: how many the prompt has.
        n_subsets: how many subsets are drawn.
    """
    k = n_top(n_demonstrations)
    subsets = random_subsets(generator, n_subsets, n_demonstrations)
    values = {name: torch.tensor(list(row), dtype=torch.float64) for name, row in scores.items()}
    wanted = [tuple(row.tolist()) for row in subsets]
    wanted += [tuple((~top(row, k)).tolist()) for row in values.values()]
    runs = list(dict.fromkeys(wanted))
    left_out = [[index for index, kept in enumerate(row) if not kept] for row in runs]
    margins = dict(zip(runs, rerun(left_out).margins.tolist(), strict=True))
    of_subsets = torch.tensor([margins[row] for row in wanted[:n_subsets]], dtype=torch.float64)
    return tuple(
        Faithfulness(name, lds(row, subsets, of_subsets), full_margin - margins[removed], k, n_subsets)
        for (name, row), removed in zip(values.items(), wanted[n_subsets:], strict=True)
    )
