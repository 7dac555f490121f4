"""Successive elimination: many prompts on few queries, the better half on more, the last few on all."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from iclens.selection.evaluator import ALIKE, Order
from iclens.selection.search import Search

_LAST = 4
"""Fewer prompts than that are not halved any more, and fewer queries tell nothing."""


def race(search: Search, orders: Sequence[Order]) -> list[Order]:
    """Find the best of some prompts: those of the last round, the best first.

    Each round runs the prompts that are left on twice as many queries as the one before, which have in part been
    answered already, and the worse half goes out. The last ones run on all queries, and with them the first that was
    named. Of prompts that are alike the shorter one wins, and of these the one that was named first.

    Source: Jamieson & Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization".
    """
    left = list(dict.fromkeys(orders))
    first = left[0]
    n_shots = sum(map(len, left)) / len(left)
    for some in rounds(search, len(left), n_shots)[:-1]:
        ranks = search.evaluator.said(left, range(some)).ranks(ALIKE)
        ranked = sorted(range(len(left)), key=lambda i: ranks[i], reverse=True)
        left = [left[i] for i in ranked[: max(_LAST, len(left) // 2)]]
    left = list(dict.fromkeys([first, *left]))
    ranks = search.evaluator.said(left).ranks(ALIKE)
    return [left[i] for i in sorted(range(len(left)), key=lambda i: (ranks[i], -len(left[i]), -i), reverse=True)]


def trimmed(search: Search, order: Order) -> Order:
    """Drop one demonstration after another while what is left answers as well, by real runs, and the budget lasts."""
    while len(order) > 1 and len(order) * search.cost(len(order) - 1, len(search.evaluator.queries)) <= search.left:
        shorter = [(*order[:place], *order[place + 1 :]) for place in range(len(order))]
        whole, *ranks = search.evaluator.said([order, *shorter]).ranks(ALIKE)
        best = max(range(len(ranks)), key=lambda i: ranks[i])
        if ranks[best] < whole:
            break
        order = shorter[best]
    return order


def rounds(search: Search, n_orders: int, n_shots: float | int) -> list[int]:
    """On how many queries each round runs: on no fewer than cost as much as what stands before them."""
    n_queries = len(search.evaluator.queries)
    before = search.cost(n_shots, 0) / search.cost(0, 1)
    least = min(n_queries, max(_LAST, ceil(before)))
    count, left = 1, n_orders
    while left > _LAST and n_queries >> count >= least:
        count, left = count + 1, max(_LAST, left // 2)
    return [n_queries >> (count - 1 - r) for r in range(count)]


def cost_of_race(search: Search, n_orders: int, n_shots: float | int) -> float:
    """Passes that a race costs, about."""
    total, before, left = 0.0, 0, n_orders
    for some in rounds(search, n_orders, n_shots):
        total += left * search.cost(n_shots, some - before) if some > before else 0.0
        before, left = some, max(_LAST, left // 2)
    return total + search.cost(n_shots, len(search.evaluator.queries))


def most_in_race(search: Search, passes: float, n_shots: float | int) -> int:
    """How many prompts may start in a race that costs so many passes at most; at least one."""
    n_orders = 1
    while cost_of_race(search, n_orders + 1, n_shots) <= passes and n_orders < 1 << 10:
        n_orders += 1
    return n_orders
