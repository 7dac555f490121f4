"""Random search: random subsets in random orders, of which the best on the development examples is taken."""

from __future__ import annotations

from iclens.selection.search import METHODS, Found, Search


@METHODS.register("random")
def choose(search: Search) -> Found:
    """Run random subsets on all development examples while the budget lasts, and take the best.

    Source: the random search of DSPy's `BootstrapFewShotWithRandomSearch`, Khattab et al. 2023.
    """
    tried = [search.drawn()]
    cost = search.cost(len(tried[0]), len(search.evaluator.queries))
    while len(tried) < 1 << 10 and cost <= search.left:
        tried.append(search.drawn())
        if tried[-1] in tried[:-1]:
            # Small pools have few subsets: that it was drawn counts, so that the loop ends.
            continue
        cost += search.cost(len(tried[-1]), len(search.evaluator.queries))
    ranks = search.evaluator.said(tried).ranks()
    return Found(tried[max(range(len(tried)), key=lambda i: ranks[i])])
