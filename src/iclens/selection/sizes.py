"""What prompts of each length reached: of those that really ran on all examples that chose, and of no others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from iclens.selection.comparing import Measured, measured
from iclens.selection.evaluator import Evaluator, Order


@dataclass(frozen=True)
class Size:
    """Prompts with one number of demonstrations, which all ran on the same examples.

    Attributes:
        n_shots: how many demonstrations they have.
        n_prompts: how many of them ran.
        indices: the best of them, in the order of the prompt.
        reached: what it reaches. It is the best of several on the examples that it was found with: on others it may
            reach less.
    """

    n_shots: int
    n_prompts: int
    indices: Order
    reached: Measured


def shorter(order: Order, values: Mapping[int, float]) -> list[Order]:
    """The prompt's best half, the best half of that, and so on down to one demonstration, in the prompt's order.

    Args:
        order: a prompt.
        values: of its demonstrations, the more the better.
    """
    found, left = list[Order](), order
    while len(left) > 1:
        kept = sorted(left, key=lambda i: -values[i])[: len(left) // 2]
        left = tuple(i for i in left if i in kept)
        found.append(left)
    return found


def sizes(evaluator: Evaluator) -> tuple[Size, ...]:
    """The best prompt of every length that ran on all of an evaluator's queries, the shortest first; nothing runs."""
    by_length: dict[int, list[Order]] = {}
    for order in evaluator.complete():
        by_length.setdefault(len(order), []).append(order)
    found = []
    for n_shots, orders in sorted(by_length.items()):
        said = evaluator.said(orders)
        ranks = said.ranks()
        best = max(range(len(orders)), key=lambda i: (ranks[i], -i))
        found.append(Size(n_shots, len(orders), orders[best], measured(said.values[best], said.log_p[best])))
    return tuple(found)
