"""One at a time: what the development examples lose when a demonstration is really left out of the whole pool."""

from __future__ import annotations

import torch

from iclens.selection.search import METHODS, Found, Search


@METHODS.register("one_at_a_time")
def choose(search: Search) -> Found:
    """Score each demonstration by the mean log-probability of the right answer with it minus without it; keep the best.

    Without `k` those stay without which the right answers are less likely.

    Raises:
        UserError: the pool does not fit into one prompt, or the budget does not suffice.
    """
    every = tuple(range(search.n))
    search.check_one_prompt("one_at_a_time")
    without = [tuple(i for i in every if i != left_out) for left_out in every] if search.n > 1 else []
    # Prompts without neighbours share half of what stands before the queries, in the mean.
    some = search.affordable_queries(search.n + 1, search.n / 2)
    said = search.evaluator.said([every, *without], some).log_p.mean(1)
    scores = said[0] - said[1:] if without else torch.ones(1, dtype=torch.float64)
    helpful = int((scores > 0).sum())
    chosen = search.best(scores.tolist(), search.k or max(1, helpful))
    return Found(tuple(sorted(chosen) if search.order == "given" else chosen[::-1]), scores)
