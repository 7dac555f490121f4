"""A choice that is ready to be made: everything was read, checked and divided, and no pass has run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.scores.deletions import ids_of
from iclens.selection.asked import Query, candidates_of, check_candidate, read_query
from iclens.selection.elsewhere import Elsewhere
from iclens.selection.evaluator import Evaluator, Order
from iclens.selection.examples import Example
from iclens.selection.labelling import labelled
from iclens.selection.ledger import Ledger
from iclens.selection.metrics import MATCHES, Metric, check_metric
from iclens.selection.pool import Pool
from iclens.selection.search import ORDERS, Search
from iclens.work.parts import Parts

BUDGET = 100.0
"""Passes for choosing, where nothing else is said."""


@dataclass(frozen=True)
class Limits:
    """What a choice must keep to.

    Attributes:
        k: how many demonstrations; None lets the method decide.
        budget_tokens: tokens that the demonstrations and the instruction may have together; None for the context.
        order: one of `ORDERS`.
        balanced: labels equally often.
        budget: passes for choosing.
    """

    k: int | None = None
    budget_tokens: int | None = None
    order: str = ORDERS[0]
    balanced: bool = False
    budget: float = BUDGET

    def check(self) -> None:
        """Refuse limits that no choice can keep.

        Raises:
            UserError: the first of them.
        """
        for name in ("k", "budget_tokens", "budget"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise UserError(f"{name} is {value}: it must be at least 1.")
        if self.order not in ORDERS:
            raise UserError(f"the order is {self.order!r}: give one of {', '.join(map(repr, ORDERS))}.")


@dataclass(eq=False)
class Task:
    """A pool, examples to choose by, and others that take no part.

    Attributes:
        lens_model: the model.
        pool: the demonstrations.
        dev: examples to choose by.
        aside: examples that take no part in the choice.
        candidates: the answers; none for free ones.
        limits: what the choice must keep to.
        metric: what a prompt is judged by.
        match: how a free answer is compared.
        parts: where finished numbers are kept, or None.
        about: what they depend on beside the texts: the model.
        elsewhere: other processes that run the prompts; None for this one.
        tell: is called with the passes of all ledgers together.
        notes: what a reader should know.
        ledgers: all that were opened.

    Raises:
        UserError: something does not go together.
    """

    lens_model: LensModel
    pool: Pool
    dev: tuple[Example, ...]
    aside: tuple[Example, ...]
    candidates: tuple[str, ...]
    limits: Limits
    metric: Metric
    match: str = MATCHES[0]
    parts: Parts | None = None
    about: Any = None
    elsewhere: Elsewhere | None = None
    tell: Callable[[float], None] = lambda passes: None
    notes: list[str] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.limits.check()
        check_metric(self.metric)
        self.pool = replace(self.pool, writing=self.pool.writing.of(self.lens_model.tokenizer))
        if self.match not in MATCHES:
            raise UserError(f"match is {self.match!r}: give one of {', '.join(map(repr, MATCHES))}.")
        n, k = len(self.pool.demonstrations), self.limits.k
        if k is not None and k > n:
            raise UserError(f"k is {k}, but the pool has {n} demonstrations: ask for at most {n}.")
        if not self.candidates:
            self.candidates = candidates_of((*self.pool.demonstrations, *self.dev))
            if self.candidates:
                self.notes.append(f"Candidate answers are the outputs that occur: {', '.join(self.candidates)}.")
        for i, one in enumerate(self.pool.demonstrations):
            if one.output is not None:
                check_candidate(one.output, self.candidates, f"demonstration {i}")
        known = {one.input.strip(): i for i, one in enumerate(self.pool.demonstrations)}
        for one in (*self.dev, *self.aside):
            if one.input.strip() in known:
                raise UserError(
                    f"the development example {one.input[:40]!r} is demonstration {known[one.input.strip()]} of the "
                    "pool too, so that its answer would stand in the prompt: leave it out of one of the two."
                )
        if len({one.output for one in self.dev}) < 2 and (self.candidates or len(self.dev) > 1):
            raise UserError(
                "all development examples have the same output, so that a prompt that always says it would be the "
                "best: give examples of every label."
            )

    @cached_property
    def shots(self) -> tuple[Example, ...]:
        """The demonstrations with outputs: their own, or the model's."""
        return self._labelled[0]

    @property
    def certainties(self) -> tuple[float | None, ...]:
        """How sure the model is of outputs that it gave; None of those that were given."""
        return self._labelled[1]

    @cached_property
    def _labelled(self) -> tuple[tuple[Example, ...], tuple[float | None, ...]]:
        given = self.pool.demonstrations
        if self.pool.is_labelled:
            return given, (None,) * len(given)
        shots, sure = labelled(
            self.lens_model, given, self.dev, self.pool.writing, self.candidates, self.ledger("labels")
        )
        self.notes.append("The pool has no outputs: those shown are the model's own labels, with its certainty.")
        return shots, sure

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Tokens of each demonstration with what stands after it, written before the first example."""
        shots, model, query = self.pool.demonstrations, self.lens_model, self.dev[0].input
        if not self.pool.is_labelled:
            shots = tuple(replace(one, output=max(self.candidates, key=len, default="?")) for one in shots)
        first, *others = (self.pool.writing.prompt([one], query) for one in shots)
        alone = ids_of(model, [first, *others])
        bare = len(ids_of(model, [first.without([0])])[0])
        return tuple(len(ids) - bare for ids in alone)

    @cached_property
    def pass_tokens(self) -> float:
        """Tokens of a pass: the whole pool and one query, in the mean of the examples to choose by."""
        return self.before + sum(self.sizes) + self._of_query([one.input for one in self.dev])[0]

    @cached_property
    def before(self) -> int:
        """Tokens of the instruction."""
        return 0 if self.pool.writing.instruction is None else self._length(self.pool.writing.instruction)

    @cached_property
    def room(self) -> int:
        """Tokens that demonstrations may have.

        Raises:
            UserError: none fits.
        """
        wanted, limit = self.limits.budget_tokens, self.lens_model.context_length
        room = self.context if wanted is None else min(self.context, wanted - self.before)
        if room < min(self.sizes):
            said = f"budget_tokens is {wanted}" if room < self.context else f"the model's context holds {limit} tokens"
            raise UserError(f"{said}, and not even the shortest demonstration ({min(self.sizes)} tokens) fits.")
        return room

    @cached_property
    def context(self) -> int:
        """Tokens that demonstrations may have for the model's sake, with every query and answer after them."""
        limit = self.lens_model.context_length
        if limit is None:
            return sum(self.sizes)
        longest = self._of_query([one.input for one in (*self.dev, *self.aside)])[1]
        answers = [*self.candidates, *(str(one.output) for one in (*self.dev, *self.aside))]
        # A token may be added at either end.
        return limit - self.before - longest - max(self._length(one) for one in answers) - 2

    @cached_property
    def start(self) -> Order:
        """The prompt that the choice is compared with: the pool in its order, or as much of its beginning as fits."""
        n, most, size, kept = len(self.sizes), self.limits.k or len(self.sizes), 0, 0
        if sum(self.sizes) <= self.context:
            return tuple(range(n))
        while kept < most and size + self.sizes[kept] <= self.room:
            size, kept = size + self.sizes[kept], kept + 1
        self.notes.append(
            f"The pool of {n} demonstrations exceeds the context: the starting prompt is its first {kept}."
        )
        return tuple(range(max(1, kept)))

    @property
    def cost_of_report(self) -> float:
        """Estimate the passes of the report: held-out examples, doubtful labels, demonstrations left out."""
        query = self.pass_tokens - sum(self.sizes)
        n, most = len(self.sizes), self.limits.k or len(self.sizes)
        shots = sum(self.sizes) * most / n
        held_out = sum(self.sizes) + 2 * shots + 3 * len(self.aside) * query
        left_out = most * (shots / 2 + len(self.dev) * query)
        halves = shots + most.bit_length() * len(self.dev) * query
        return (held_out + left_out + halves) / self.pass_tokens + 4 + len(self.dev) * query / self.pass_tokens + 1

    def check_lengths(self) -> None:
        """Read every example's answers as tokens, and demonstrations, so that one is refused before anything runs.

        Raises:
            UserError: the first that cannot be read, or that the context does not hold.
        """
        for one in (*self.dev, *self.aside):
            self._query(one)
        for i, size in enumerate(self.sizes):
            if size > self.context:
                raise UserError(
                    f"demonstration {i} of the pool has {size} tokens, and the context of {self.lens_model.name} holds "
                    f"{max(0, self.context)} beside the longest example: shorten it or leave it out."
                )

    def evaluator(self, what: str, examples: Sequence[Example]) -> Evaluator:
        """Return what runs prompts on some examples, with its own ledger."""
        queries = tuple(self._query(one) for one in examples)
        writing, ledger = self.pool.writing, self.ledger(what)
        how = self.metric, self.match
        return Evaluator(self.lens_model, self.shots, writing, queries, ledger, *how, elsewhere=self.elsewhere)

    def ledger(self, what: str) -> Ledger:
        """Return a new ledger; its numbers are kept under `what`."""
        metric = getattr(self.metric, "__qualname__", self.metric)
        about = [self.about, str(metric), self.match, what]
        opened = Ledger(self.pass_tokens, about, self.parts, lambda _: self.tell(self.passes))
        self.ledgers.append(opened)
        return opened

    @property
    def passes(self) -> float:
        """Passes that were spent so far, by all ledgers together."""
        return sum((one.passes for one in self.ledgers), 0.0)

    def search(self, evaluator: Evaluator, seed: int, budget: float | None = None) -> Search:
        """Return the choice as a method sees it."""
        limits = self.limits
        return Search(
            evaluator,
            self.start,
            limits.k,
            self.sizes,
            self.room,
            self.context,
            limits.order,
            limits.balanced,
            limits.budget if budget is None else budget,
            torch.Generator().manual_seed(seed),
        )

    def tokens(self, order: Order) -> int:
        """Tokens of a prompt with the first development example as its query."""
        written = self.pool.writing.prompt([self.shots[i] for i in order], self.dev[0].input)
        return len(ids_of(self.lens_model, [written])[0])

    @cached_property
    def _queries(self) -> dict[Example, Query]:
        return {}

    def _query(self, example: Example) -> Query:
        if example not in self._queries:
            prompt = self.pool.writing.prompt([self._any_shot], example.input)
            self._queries[example] = read_query(self.lens_model, prompt, example, self.candidates)
        return self._queries[example]

    @property
    def _any_shot(self) -> Example:
        """A demonstration with an output, of a pool without outputs too."""
        first = self.pool.demonstrations[0]
        return replace(first, output=first.output or max(self.candidates, key=len, default="?"))

    def _of_query(self, inputs: Sequence[str]) -> tuple[float, int]:
        """Mean and largest number of tokens of queries."""
        written = [self.pool.writing.prompt([self._any_shot], one).without([0]) for one in inputs]
        lengths = [len(ids) - self.before for ids in ids_of(self.lens_model, written)]
        return sum(lengths) / len(lengths), max(lengths)

    def _length(self, text: str) -> int:
        return len(self.lens_model.tokenizer(text, add_special_tokens=False)["input_ids"])
