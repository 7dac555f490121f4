"""How well scores predict what the model does: AUC against a truth, LDS, and the removal test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.lens.explanation import Faithfulness
from iclens.lens.scores.agreement import n_top, spearman
from iclens.lens.scores.deletions import Outcome


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
    """The k highest scores; ties go to the earlier demonstration."""
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
