"""Prompts that really run: what a model says to many queries after lists of demonstrations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.scores.deletions import ids_of
from iclens.selection.asked import Query
from iclens.selection.examples import Example
from iclens.selection.ledger import Ledger
from iclens.selection.metrics import ACCURACY, LOG_LOSS, MATCHES, Metric, value_of
from iclens.selection.reading import MOST_TOKENS, log_probabilities
from iclens.selection.writing import Writing
from iclens.selection.written import write_answers

Order = tuple[int, ...]
"""Demonstrations by their numbers in the pool, in the order of the prompt."""

ALIKE = 0.01
"""Nats of log-loss within which two prompts are alike: a model that is certain does not choose by how certain."""

_AT_ONCE = 1 << 14
"""Tokens of texts after which finished numbers are kept."""


@dataclass(frozen=True)
class Said:
    """What the model says to some queries after some prompts.

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
    """

    lens_model: LensModel
    shots: Sequence[Example]
    writing: Writing
    queries: Sequence[Query]
    ledger: Ledger
    metric: Metric = ACCURACY
    match: str = MATCHES[0]
    most_tokens: int = MOST_TOKENS
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
        waiting: list[tuple[Order, int]] = []
        for order in dict.fromkeys(orders):
            lacking = [(order, q) for q in chosen if (order, q) not in self._known]
            if waiting and len(waiting) + len(lacking) > self._at_once(order):
                self._run(waiting)
                waiting = []
            waiting += lacking
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

    def _run(self, asked: Sequence[tuple[Order, int]]) -> None:
        texts = self.ids(asked)
        self._check_length(texts)
        numbers = self.ledger.numbers(["said", texts], lambda: self._compute(texts, [q for _, q in asked]))
        self._known.update(zip(asked, map(tuple, numbers), strict=True))

    def _compute(self, texts: Sequence[Sequence[int]], queries: Sequence[int]) -> tuple[list[list[float]], int]:
        asked = [self.queries[q] for q in queries]
        pairs = list(zip(texts, asked, strict=True))
        values, greedy, tokens = log_probabilities(self.lens_model, pairs, self.most_tokens)
        free = [i for i, one in enumerate(asked) if one.is_free and (callable(self.metric) or self.match != MATCHES[0])]
        written, more = write_answers(self.lens_model, [pairs[i] for i in free], self.writing.stop, self.most_tokens)
        predicted = dict(zip(free, written, strict=True))
        numbers = []
        for i, (query, own, begins) in enumerate(zip(asked, values, greedy, strict=True)):
            target = query.answers[query.right]
            if query.is_free:
                said = predicted.get(i, target if begins else "")
                log_p = own[0]
            else:
                said = query.answers[max(range(len(own)), key=own.__getitem__)]
                log_p = own[query.right] - float(torch.tensor(own, dtype=torch.float64).logsumexp(0))
            numbers.append([log_p, value_of(self.metric, said, target, self.match)])
        return numbers, tokens + more

    def _check_length(self, texts: Sequence[Sequence[int]]) -> None:
        limit, longest = self.lens_model.context_length, max(map(len, texts))
        room = max(len(one) for query in self.queries for one in query.ids) - 1
        if limit is not None and longest + room > limit:
            raise UserError(
                f"a prompt of these demonstrations has {longest + room} tokens with its answer, but the context of "
                f"{self.lens_model.name} holds {limit}: choose fewer demonstrations, by k or budget_tokens."
            )
