"""Greedy: the demonstration that helps most is added to those chosen already, again and again."""

from __future__ import annotations

import torch

from iclens.selection.evaluator import ALIKE, Order
from iclens.selection.search import METHODS, Found, Search


@METHODS.register("greedy")
def choose(search: Search) -> Found:
    """Add demonstrations before those chosen already, each the best of all by real runs; without `k` while that helps.

    All run on as many development examples as the budget allows.

    Raises:
        UserError: the budget does not suffice.
    """
    most = search.k or search.n
    n_prompts = sum(search.n - step for step in range(most))
    some = search.affordable_queries(n_prompts, (most + 1) / 2)
    chosen: Order = ()
    best, scores = None, torch.zeros(search.n, dtype=torch.float64)
    while len(chosen) < most:
        allowed = _balanced(search, chosen) if search.balanced else set(range(search.n))
        trials = [(i, *chosen) for i in sorted(allowed - set(chosen)) if search.fits([i, *chosen])]
        if not trials:
            break
        ranks = search.evaluator.said(trials, some).ranks()
        place = max(range(len(trials)), key=lambda j: ranks[j])
        if search.k is None and best is not None and ranks[place] <= (best[0], best[1] + ALIKE):
            break
        best, chosen = ranks[place], trials[place]
        scores[chosen[0]] = search.n - len(chosen) + 1
    return Found(tuple(sorted(chosen)) if search.order == "given" else chosen, scores)


def _balanced(search: Search, chosen: Order) -> set[int]:
    """Demonstrations of the labels that were chosen least."""
    labels = [one.output for one in search.evaluator.shots]
    left = [i for i in range(search.n) if i not in chosen]
    counts = {labels[i]: sum(labels[j] == labels[i] for j in chosen) for i in left}
    return {i for i in left if counts[labels[i]] == min(counts.values())}
