"""Ours: effects from a few passes propose prompts, chance proposes as many, and real runs decide among them.

Effects are measured in a prompt of the whole pool, and a short prompt may follow other rules; so every second prompt of
the race is drawn at random, and elimination alone makes the race worth more than a random search. A budget that does
not suffice for effects is spent on drawn prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from iclens.selection.effects import Effects, measure_effects
from iclens.selection.evaluator import Order
from iclens.selection.race import cost_of_race, most_in_race, race, trimmed
from iclens.selection.search import METHODS, Found, Search

_FOR_EFFECTS = 0.4
"""The part of the budget that effects may take, unless these are as few mini-batches as there may be."""

_AT_MOST = 0.55
"""The part from which on these are too dear."""

_FOR_NEAR = 0.4
"""The part of what is left then that dropping what is not needed and the race among neighbours of the best may take."""

_BASES = 2
"""Prompts of the first race whose neighbours run: on few examples the best and the second are much alike."""

_BATCHES = (2, 8)
"""Fewest and most mini-batches."""

_TRIES = 1 << 10
"""Neighbours of one prompt that are drawn at most."""


@METHODS.register("influence")
def choose(search: Search) -> Found:
    """Measure every demonstration's effect, race prompts that the effects propose, then orders of the best.

    1. The influence of all demonstrations at once on mini-batches of the development examples (`measure_effects`).
    2. Proposals: the largest effects; the same less what two demonstrations say alike; effects drawn within their
       errors; each the best last, the best first and in random orders. Without `k` of every size. Every second one is
       a random subset.
    3. Successive elimination among them by real runs (`race`); without `k` what the winner does not need goes out.
    4. A race among neighbours of the first and the second: a demonstration exchanged for one of a larger effect, and
       with `order="search"` other orders.
    """
    effects, note, needed = None, "", _cost_of_effects(search, _BATCHES[0], 1)
    if needed > _AT_MOST * search.budget:
        note = (
            f"The budget of {search.budget:g} passes does not suffice for effects, which take about {needed:.0f}: "
            "prompts were drawn at random."
        )
    else:
        effects = measure_effects(search.evaluator, partial(_n_batches, search), search.divided, search.generator)
    scores = None if effects is None else effects.mean
    sizes = [search.k] if search.k else list(range(1, search.n + 1))
    typical = sum(sizes) / len(sizes)
    n_first = most_in_race(search, search.left * (1 - _FOR_NEAR), typical)
    proposals = _distinct(_mixed(search, effects))
    # What is pruned stays as it is where nothing shorter is as good.
    before = [search.start] if search.k is None and search.fits(search.start) else []
    found = race(search, [*before, *islice(proposals, max(1, n_first - len(before)))])
    if search.k is None:
        found = [trimmed(search, found[0])]
    best = found[0]
    n_near = most_in_race(search, search.left, len(best))
    if cost_of_race(search, n_near, len(best)) <= search.left and n_near > 1:
        near = _distinct(_near(search, found[:_BASES], effects))
        best, *_ = race(search, [best, *islice(near, n_near - 1)])
    return Found(best, scores, effects, note)


def _n_batches(search: Search, n_scales: int) -> int:
    """How many mini-batches the budget allows; 0 where it allows no more than one scale."""
    least, most = _BATCHES
    n_queries = len(search.evaluator.queries)
    # A mini-batch holds each label, or the effects in it would be those on one of them.
    labels = {query.example.output for query in search.evaluator.queries if not query.is_free}
    most = min(most, n_queries // max(1, len(labels)))
    for count in range(most, least, -1):
        if _cost_of_effects(search, count, n_scales) <= _FOR_EFFECTS * search.budget:
            return count
    dear = n_scales > 1 and _cost_of_effects(search, least, n_scales) > _AT_MOST * search.budget
    return 0 if dear else min(least, n_queries)


def _cost_of_effects(search: Search, count: int, n_scales: int) -> float:
    """Passes of so many mini-batches, about: each reads the pool twice, forth and back, at every scale."""
    prompts = len(search.divided(range(search.n)))
    queries = prompts * -(-len(search.evaluator.queries) // count)
    return count * 4 * n_scales * search.cost(search.n, queries)


def _mixed(search: Search, effects: Effects | None) -> Iterator[Order]:
    """What the effects propose and what is drawn, by turns; without end."""
    proposed = None if effects is None else _proposals(search, effects)
    while True:
        if proposed is not None:
            yield next(proposed)
        yield search.drawn()


def _proposals(search: Search, effects: Effects) -> Iterator[Order]:
    """Prompts to race, the most promising first; without end."""
    mean, error = effects.mean, effects.error
    values = [mean] if effects.pairs is None else [mean, _apart(search, effects)]
    while True:
        for one in values:
            for k in _sizes(search, one, error):
                chosen = search.best(one.tolist(), k)
                yield from _ordered(search, chosen, mean)
        values = [mean + error * torch.randn(search.n, generator=search.generator) for _ in range(2)]


def _sizes(search: Search, values: Tensor, error: Tensor) -> Sequence[int | None]:
    """How many demonstrations to keep: `k`, or without it those that help, those that may, and from all downwards."""
    if search.k:
        return [search.k]
    helpful, possible = int((values > 0).sum()), int((values > -error).sum())
    halves = [search.n * part // 8 for part in range(8, 0, -1)]
    return list(dict.fromkeys(max(1, one) for one in (helpful, possible, int((values > error).sum()), *halves)))


def _ordered(search: Search, chosen: Sequence[int], mean: Tensor | None) -> Iterator[Order]:
    """The orders of some demonstrations that are raced along with others."""
    if search.order == "given":
        yield tuple(sorted(chosen))
        return
    if mean is not None:
        by_effect = sorted(chosen, key=lambda i: float(mean[i]))
        yield tuple(by_effect)
        if search.order == "search":
            yield tuple(by_effect[::-1])
    if search.order == "search":
        yield tuple(chosen[i] for i in torch.randperm(len(chosen), generator=search.generator).tolist())


def _near(search: Search, bases: Sequence[Order], effects: Effects | None) -> Iterator[Order]:
    """Neighbours of prompts, by turns with other orders of them where orders are searched; without end."""
    each: list[Iterator[Order]] = []
    for base in bases:
        orders = [_orders(search, base, None if effects is None else effects.mean)] if search.order == "search" else []
        each += [*orders, _exchanged(search, base, effects)]
    while each:
        for one in list(each):
            found = next(one, None)
            if found is None:
                each.remove(one)
            else:
                yield found


def _exchanged(search: Search, base: Order, effects: Effects | None) -> Iterator[Order]:
    """The prompt with one demonstration exchanged for another: the less it helps, for the more it may help."""
    labels = [one.output for one in search.evaluator.shots]
    others = [i for i in range(search.n) if i not in base]
    for _ in range(_TRIES if others and search.k is not None else 0):
        values = torch.randn(search.n, generator=search.generator, dtype=torch.float64)
        if effects is not None:
            spread = effects.error + effects.mean.std()
            values = effects.mean + spread * values
        out = min(base, key=lambda i: float(values[i]))
        allowed = [i for i in others if not search.balanced or labels[i] == labels[out]]
        if allowed:
            new = max(allowed, key=lambda i: float(values[i]))
            order = tuple(new if i == out else i for i in base)
            if search.fits(order):
                yield tuple(sorted(order)) if search.order == "given" else order


def _orders(search: Search, best: Order, mean: Tensor | None) -> Iterator[Order]:
    """Orders of the same demonstrations: near the best one first, then any."""
    yield from _ordered(search, best, mean)
    yield tuple(sorted(best))
    for place in range(len(best) - 1):
        yield (*best[:place], best[place + 1], best[place], *best[place + 2 :])
    for _ in range(_TRIES):
        yield tuple(best[i] for i in torch.randperm(len(best), generator=search.generator).tolist())


def _apart(search: Search, effects: Effects) -> Tensor:
    """Effects in the order in which demonstrations add most to those before them, by the pairs; the first has n."""
    assert effects.pairs is not None
    matrix, gains = effects.pairs.matrix, effects.mean.clone()
    scale = float(effects.pairs.weights.max())
    values, left = torch.zeros(search.n, dtype=torch.float64), set(range(search.n))
    for turn in range(search.n):
        i = max(left, key=lambda one: (float(gains[one]), -one))
        left.remove(i)
        # Zero is where another one takes more than it gives.
        values[i] = float(search.n - turn) if float(gains[i]) > 0 else float(gains[i])
        gains = gains + matrix[i] * scale / 2
    return values


def _distinct(orders: Iterator[Order]) -> Iterator[Order]:
    """Each order once; ends when nothing new comes."""
    seen: set[Order] = set()
    repeated = 0
    for order in orders:
        if order in seen:
            repeated += 1
            if repeated > 200:
                return
            continue
        seen.add(order)
        repeated = 0
        yield order
