"""What a method that chooses demonstrations is given: the task, the limits, and prompts that it may run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.registry import Registry
from iclens.selection.effects import Effects
from iclens.selection.evaluator import Evaluator, Order

ORDERS = ("search", "best-last", "given")
"""How the chosen ones are ordered: by real runs; by their scores, the best next to the query; as in the pool."""


@dataclass(frozen=True)
class Found:
    """What a method chose.

    Attributes:
        order: the demonstrations, in the order of the prompt.
        scores: one for each of the pool, the more the better, or None where the method has none.
        effects: what the scores rest on, where mini-batches were measured.
        note: what the method left out, and why.
    """

    order: Order
    scores: Float[Tensor, " n_pool"] | None = None
    effects: Effects | None = None
    note: str = ""


@dataclass(eq=False)
class Search:
    """A choice to be made.

    Attributes:
        evaluator: runs prompts on the development examples, and nothing else.
        start: the prompt before the choice.
        k: how many to choose; None lets the method decide.
        sizes: tokens of each demonstration with what stands behind it.
        room: tokens that the demonstrations of a prompt may have.
        context: those that they may have for the model's sake, where a prompt is measured and not chosen.
        order: one of `ORDERS`.
        balanced: whether labels occur equally often, as far as the pool has them.
        budget: passes that may be spent; a pass is a reading of the whole pool with one query.
        generator: the only source of randomness.
    """

    evaluator: Evaluator
    start: Order
    k: int | None
    sizes: Sequence[int]
    room: int
    context: int
    order: str
    balanced: bool
    budget: float
    generator: torch.Generator

    @property
    def n(self) -> int:
        """How many demonstrations the pool has."""
        return len(self.sizes)

    @property
    def left(self) -> float:
        """Passes that are left."""
        return self.budget - self.evaluator.ledger.passes

    def cost(self, n_shots: float | int, n_queries: int) -> float:
        """Passes that a prompt of some demonstrations costs on some queries, about."""
        unit, queries = self.evaluator.ledger.unit, self.evaluator.queries
        mean = sum(self.sizes) / self.n
        query = max(1.0, unit - sum(self.sizes))
        return (n_shots * mean + min(n_queries, len(queries)) * query) / unit

    def fits(self, order: Sequence[int]) -> bool:
        """Whether demonstrations fit into the room there is."""
        return sum(self.sizes[i] for i in order) <= self.room

    def check_one_prompt(self, method: str) -> None:
        """Refuse a pool that the model cannot read as one prompt.

        Raises:
            UserError: it cannot.
        """
        if len(self.divided(range(self.n))) > 1:
            raise UserError(
                f"the method {method!r} reads the whole pool as one prompt, and this one does not fit into the "
                "context: take 'influence' or 'random'."
            )

    def divided(self, order: Sequence[int]) -> list[Order]:
        """Prompts that the model can read, of the demonstrations in this order."""
        prompts: list[list[int]] = [[]]
        for i in order:
            if prompts[-1] and sum(self.sizes[j] for j in (*prompts[-1], i)) > self.context:
                prompts.append([])
            prompts[-1].append(i)
        return [tuple(one) for one in prompts]

    def best(self, values: Sequence[float], k: int | None = None) -> list[int]:
        """The demonstrations with the largest values that fit, the largest first; balanced by label if that is asked.

        Without `k` as many as `Search.k` says, or all.
        """
        wanted = k or self.k or self.n
        ranked = sorted(range(self.n), key=lambda i: (-values[i], i))
        labels = [one.output for one in self.evaluator.shots]
        chosen: list[int] = []
        if self.balanced:
            of_each: dict[str | None, list[int]] = {}
            for i in ranked:
                of_each.setdefault(labels[i], []).append(i)
            # The best of each label, then the second of each, and so on.
            turns = [own[turn] for turn in range(self.n) for own in of_each.values() if turn < len(own)]
            ranked = turns
        for i in ranked:
            if len(chosen) < wanted and self.fits([*chosen, i]):
                chosen.append(i)
        return chosen

    def drawn(self, k: int | None = None) -> Order:
        """A random subset that fits, in the order that `order` asks for: as in the pool, or a random one."""
        values = torch.rand(self.n, generator=self.generator).tolist()
        if k is None and self.k is None:
            k = 1 + int(torch.randint(self.n, (1,), generator=self.generator))
        chosen = self.best(values, k)
        return tuple(sorted(chosen)) if self.order == "given" else tuple(chosen)

    def affordable_queries(self, n_prompts: int, n_shots: float | int) -> list[int]:
        """As many of the queries as some prompts can be run on with what is left.

        Raises:
            UserError: not even one.
        """
        every = list(self.evaluator.every)
        for count in range(len(every), 0, -1):
            if n_prompts * self.cost(n_shots, count) <= self.left:
                return every[:count]
        needed = n_prompts * self.cost(n_shots, 1) + self.budget - self.left
        raise UserError(
            f"a budget of {self.budget:g} passes is too small for this method, which needs {needed:.0f} at least: "
            "raise it, or take the method 'influence' or 'random'."
        )


Method = Callable[[Search], Found]

METHODS: Registry[Method] = Registry("selection method", "iclens.selection_methods", package="iclens.selection.methods")
