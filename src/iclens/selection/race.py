"""Successive elimination: many prompts on few queries, the better half on more, and so on."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log2

from iclens.selection.evaluator import Order
from iclens.selection.search import Search


def race(search: Search, orders: Sequence[Order]) -> Order:
    """Find the best of some prompts; the last two run on all queries.

    In round r of R the prompts that are left are compared on the first 2^(r − R) of the queries, which the rounds
    before have in part answered already, and the worse half goes out.

    Source: Jamieson & Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization".
    """
    left = list(dict.fromkeys(orders))
    n_queries = len(search.evaluator.queries)
    for some in rounds(len(left), n_queries):
        said = search.evaluator.said(left, range(some))
        ranked = sorted(range(len(left)), key=lambda i: (said.ranks[i], -len(left[i])), reverse=True)
        left = [left[i] for i in ranked[: max(1, len(left) // 2)]]
    return left[0]


def rounds(n_orders: int, n_queries: int) -> list[int]:
    """On how many queries each round runs."""
    count = max(1, ceil(log2(n_orders))) if n_orders > 1 else 1
    # Fewer than four queries tell nothing.
    least = min(4, n_queries)
    return [max(least, n_queries >> (count - 1 - r)) for r in range(count)]


def cost_of_race(search: Search, n_orders: int, n_shots: float) -> float:
    """Passes that a race costs, about."""
    total, before, left = 0.0, 0, n_orders
    for some in rounds(n_orders, len(search.evaluator.queries)):
        total += left * search.cost(n_shots, some - before) if some > before else 0.0
        before, left = some, max(1, left // 2)
    return total


def most_in_race(search: Search, passes: float, n_shots: float) -> int:
    """How many prompts may start in a race that costs so many passes at most; at least one."""
    n_orders = 1
    while cost_of_race(search, n_orders + 1, n_shots) <= passes and n_orders < 1 << 10:
        n_orders += 1
    return n_orders
