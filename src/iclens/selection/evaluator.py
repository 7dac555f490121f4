"""Prompts that really run: what a model says to many queries behind lists of demonstrations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.scores.deletions import ids_of
from iclens.selection.answering import answers_of
from iclens.selection.asked import Query
from iclens.selection.elsewhere import Elsewhere, pieces
from iclens.selection.examples import Example
from iclens.selection.ledger import Ledger
from iclens.selection.metrics import ACCURACY, LOG_LOSS, MATCHES, Metric
from iclens.selection.reading import MOST_TOKENS
from iclens.selection.writing import Writing

Order = tuple[int, ...]
"""Demonstrations by their numbers in the pool, in the order of the prompt."""

ALIKE = 0.01
"""Nats of log-loss within which two prompts are alike: a model that is certain does not choose by how certain."""

_AT_ONCE = 1 << 14
"""Tokens of texts after which finished numbers are kept."""


@dataclass(frozen=True)
class Said:
    """What the model says to some queries behind some prompts.

    Attributes:
        log_p: log-probability of the right answer, of the candidates where there are any, in nats.
        values: the metric; of the log-loss the accuracy.
        by_loss: whether the log-loss is what counts.
    """

    log_p: Float[Tensor, "n_prompts n_queries"]
    values: Float[Tensor, "n_prompts n_queries"]
    by_loss: bool = False

    def ranks(self, alike: float = 0.0) -> list[tuple[float, float]]:
        """What prompts are compared by, the more the better: the metric, and at a tie the log-loss; or this first.

        Log-losses within `alike` nats of the least count as the same.
        """
        value, log_p = self.values.mean(1), self.log_p.mean(1)
        pairs = list(zip(value.tolist(), log_p.clamp_max(float(log_p.max()) - alike).tolist(), strict=True))
        return [(loss, own) for own, loss in pairs] if self.by_loss else pairs


@dataclass(eq=False)
class Evaluator:
    """A model, a pool, and queries whose answers are known. What ran once does not run again.

    Attributes:
        lens_model: the model.
        shots: the demonstrations, all labelled.
        writing: how a prompt is written.
        queries: the examples that are asked.
        ledger: counts what is read.
        metric: what a prompt is judged by.
        match: how a free answer is compared.
        most_tokens: tokens that go through the model at once.
        elsewhere: other processes that run the prompts; None runs them here.
    """

    lens_model: LensModel
    shots: Sequence[Example]
    writing: Writing
    queries: Sequence[Query]
    ledger: Ledger
    metric: Metric = ACCURACY
    match: str = MATCHES[0]
    most_tokens: int = MOST_TOKENS
    elsewhere: Elsewhere | None = None
    _known: dict[tuple[Order, int], tuple[float, float]] = field(default_factory=dict, init=False)

    @property
    def every(self) -> range:
        """The numbers of all queries."""
        return range(len(self.queries))

    def said(self, orders: Sequence[Order], some: Sequence[int] | None = None) -> Said:
        """Run prompts on queries, all of them by default.

        Raises:
            UserError: a prompt does not fit into the model's context.
        """
        chosen = list(self.every if some is None else some)
        waiting: list[list[tuple[Order, int]]] = []
        for order in dict.fromkeys(orders):
            lacking = [(order, q) for q in chosen if (order, q) not in self._known]
            if not lacking:
                continue
            if not waiting or len(waiting[-1]) + len(lacking) > self._at_once(order):
                waiting.append([])
            waiting[-1] += lacking
        if waiting:
            self._run(waiting)
        each = torch.tensor([[self._known[order, q] for q in chosen] for order in orders], dtype=torch.float64)
        return Said(each[..., 0], each[..., 1], self.metric == LOG_LOSS)

    def complete(self) -> list[Order]:
        """The prompts that ran on all queries, in the order in which they first ran."""
        counts = Counter(order for order, _ in self._known)
        return [order for order, count in counts.items() if count == len(self.queries)]

    def ids(self, asked: Sequence[tuple[Order, int]]) -> list[list[int]]:
        """The tokens of prompts with their queries."""
        prompts = [
            self.writing.prompt([self.shots[i] for i in order], self.queries[q].example.input) for order, q in asked
        ]
        return ids_of(self.lens_model, prompts)

    def _at_once(self, order: Order) -> int:
        """How many texts of the length of a prompt make a piece of work that is kept."""
        (ids,) = self.ids([(order, 0)])
        return max(1, _AT_ONCE // len(ids))

    def _run(self, asked: Sequence[list[tuple[Order, int]]]) -> None:
        """Run pieces of work, of which each is kept on its own."""
        texts = [self.ids(one) for one in asked]
        for one in texts:
            self._check_length(one)
        how = self.metric, self.match, self.writing.stop, self.most_tokens

        def compute(missing: Sequence[int]) -> Iterator[tuple[int, tuple[list[list[float]], int]]]:
            calls = [(texts[i], [self.queries[q] for _, q in asked[i]], *how) for i in missing]
            return pieces(self.lens_model, self.elsewhere, answers_of, calls)

        numbers = self.ledger.all_numbers([["said", one] for one in texts], compute)
        for piece, found in zip(asked, numbers, strict=True):
            self._known.update(zip(piece, map(tuple, found), strict=True))

    def _check_length(self, texts: Sequence[Sequence[int]]) -> None:
        limit, longest = self.lens_model.context_length, max(map(len, texts))
        room = max(len(one) for query in self.queries for one in query.ids) - 1
        if limit is not None and longest + room > limit:
            raise UserError(
                f"a prompt of these demonstrations has {longest + room} tokens with its answer, but the context of "
                f"{self.lens_model.name} holds {limit}: choose fewer demonstrations, by k or budget_tokens."
            )
