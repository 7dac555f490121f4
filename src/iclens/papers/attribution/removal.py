"""How well scores predict shortened prompts: LDS, top-k drop, and stability when the demonstrations are reordered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.attribution.shared.label_places import reordered
from iclens.lens.scores.faithfulness import lds, random_subsets, spearman, top
from iclens.papers.attribution.scoring import Scored, Subject
from iclens.recipes.table import Cell

TOPS = (1, 3, 5)
N_VECTORS = 6
"""Weight vectors of the pairs: twelve passes."""
MASKED = "(masks on the same subsets)"
"""The row whose "score" of a subset is the margin with the others masked: what any score of masks could reach."""

PAIRS = "(pairs)"
"""The row that predicts subsets by a quadratic model instead of a sum of scores."""


def removal_rows(
    subject: Subject,
    methods: Sequence[str],
    n_subsets: int,
    seed: int,
    *,
    stable: Sequence[str] = (),
    ceiling: bool = False,
    pairs: bool = False,
) -> list[dict[str, Cell]]:
    """A row a method: LDS and top-k drops for the margin and the whole answer's log-probability, stability, costs.

    Args:
        subject: the prompt.
        methods: names in `ATTRIBUTIONS`.
        n_subsets: random subsets, each demonstration kept with probability ½; the same for all methods.
        seed: of the methods; the subsets and the other order have seeds of their own.
        stable: methods that also score the demonstrations in another order.
        ceiling: add the row `MASKED`.
        pairs: add the row `PAIRS`.
    """
    n = len(subject.prompt.sources)
    scored = subject.scored(methods, seed)
    subsets = random_subsets(torch.Generator().manual_seed(seed + 1), n_subsets, n)
    of_subsets = subject.deletions(subsets)
    rows = predicting_rows(subject, scored, subsets)
    for name, values in _again(subject, stable, seed).items():
        row = next(row for row in rows if row["method"] == name)
        row["stability"] = _number(spearman(scored[name].scores.values.tolist(), values.tolist()))
    if pairs:
        lens, start = subject.lens(), subject.clock()
        sums = lens.passes.by_weight.pairs(N_VECTORS, seed, n_checks=0)[0].predict(subsets)
        cost = {"forward": lens.passes.forward_passes, "backward": lens.passes.backward_passes}
        rows.append({"method": PAIRS, **cost, "seconds": subject.clock() - start})
        rows[-1]["lds"] = _number(spearman(sums.tolist(), of_subsets.margins.tolist()))
    if ceiling:
        cut = [(~kept).nonzero().flatten().tolist() for kept in subsets]
        masked = subject.lens().passes.knock_out([cut], query_only=False).margins[0]
        rows.append({"method": MASKED, "lds": _number(spearman(masked.tolist(), of_subsets.margins.tolist()))})
    return rows


def predicting_rows(
    subject: Subject, scored: Mapping[str, Scored], subsets: Bool[Tensor, "n_subsets n"]
) -> list[dict[str, Cell]]:
    """Return a row a method: LDS and top-k drops of its scores, and what they cost.

    Args:
        subject: the prompt.
        scored: scores by method.
        subsets: keep-masks for LDS, the same for all methods.
    """
    n = subsets.shape[1]
    of_subsets = subject.deletions(subsets)
    tops = {name: [top(one.scores.values, k) for k in TOPS if k < n] for name, one in scored.items()}
    asked = torch.stack([torch.zeros(n, dtype=torch.bool), *(mask for masks in tops.values() for mask in masks)])
    margins, log_ps, _ = subject.deletions(~asked)
    drops_m, drops_p = iter((margins[0] - margins[1:]).tolist()), iter((log_ps[0] - log_ps[1:]).tolist())
    rows: list[dict[str, Cell]] = []
    for name, one in scored.items():
        values = one.scores.values
        row: dict[str, Cell] = {"method": name, **costs(one)}
        row["lds"] = _number(lds(values, subsets, of_subsets.margins))
        row["lds_log_p"] = _number(lds(values, subsets, of_subsets.log_probabilities))
        for k, _ in zip(TOPS, tops[name], strict=False):
            row[f"drop_{k}"], row[f"log_p_drop_{k}"] = next(drops_m), next(drops_p)
        rows.append(row)
    return rows


def _again(subject: Subject, methods: Sequence[str], seed: int) -> dict[str, Float[Tensor, " n"]]:
    """Scores of the same demonstrations in another order, by their numbers in the first."""
    n = len(subject.prompt.sources)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 2))
    scored = subject.scored(methods, seed, reordered(subject.prompt, order.tolist())) if methods else {}
    return {name: one.scores.values[order.argsort()] for name, one in scored.items()}


def costs(one: Scored) -> dict[str, Cell]:
    """Passes and seconds of a method."""
    return {"forward": one.scores.forward_passes, "backward": one.scores.backward_passes, "seconds": one.seconds}


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def found_by(scores: Float[Tensor, " n"], wrong: Bool[Tensor, " n"], checked: int) -> float:
    """Return the share of what is wrong among the `checked` lowest scores."""
    return float(wrong[scores.argsort(stable=True)[:checked]].double().sum() / wrong.double().sum())
