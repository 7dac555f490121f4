"""Queries behind a prompt and alone, with the answers that a model gives them, changed or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.absorption.pairing import Pairing, paired
from iclens.lens.prompt import Prompt
from iclens.lens.read.shared_texts import read_texts
from iclens.selection.evaluator import Evaluator, Order, Said
from iclens.selection.examples import Example
from iclens.selection.reading import MOST_TOKENS
from iclens.selection.task import Task
from iclens.selection.writing import Writing

ALONE: Order = ()
"""No demonstrations: the instruction and the query."""


@dataclass(frozen=True)
class WithOrWithout(Writing):
    """Writes a query without demonstrations too: as the prompt with them, less their text.

    Attributes:
        stand_in: a demonstration that is written and cut out again.
    """

    stand_in: Example | None = None

    def prompt(self, shots: Sequence[Example], query: str) -> Prompt:
        """Write a prompt, or a query alone."""
        if shots or self.stand_in is None:
            return super().prompt(shots, query)
        return super().prompt([self.stand_in], query).without([0])


@dataclass(frozen=True, eq=False)
class Answered:
    """What a model answers some queries.

    Attributes:
        said: the right answers' log-probabilities and the metric, one prompt.
        next_token: log-probabilities of the token behind the query, the whole vocabulary, in single precision.
    """

    said: Said
    next_token: Float[Tensor, "n_queries vocabulary"]

    def divergence(self, other: Answered) -> Float[Tensor, " n_queries"]:
        """KL(own ‖ other) of the token behind each query, nats."""
        own, log_q = self.next_token, other.next_token
        return (own.exp() * (own - log_q)).sum(-1).double().clamp_min(0)


@dataclass(frozen=True, eq=False)
class Queries:
    """Some queries of a task, whose demonstrations may stand before them.

    Attributes:
        task: the demonstrations, and how a prompt is written.
        examples: the queries.
    """

    task: Task
    examples: tuple[Example, ...]

    @cached_property
    def evaluator(self) -> Evaluator:
        """What runs them behind demonstrations."""
        own = self.task.pool.writing
        writing = WithOrWithout(own.template, own.instruction, own.separator, own.chat, self.task.shots[0])
        return replace(self.task.evaluator("absorb", self.examples), writing=writing)

    def ids(self, order: Order) -> list[list[int]]:
        """The tokens of the queries behind some demonstrations."""
        return self.evaluator.ids([(order, q) for q in self.evaluator.every])

    def answered(self, order: Order) -> Answered:
        """Run the queries behind some demonstrations, or alone, by the model as it is now."""
        # Anew: an evaluator remembers answers, and the model may have been changed since.
        said = replace(self.evaluator).said([order])
        ids = self.ids(order)
        ends = torch.tensor([[len(row) - 1] for row in ids])

        def read(numbers: object, logits: Tensor) -> tuple[Tensor]:
            return (logits[:, 0].log_softmax(-1).float().cpu(),)

        (found,) = read_texts(self.task.lens_model, ids, ends, read, MOST_TOKENS)
        return Answered(said, found)

    def paired(self, order: Order, emphasis: float) -> Pairing:
        """The queries behind some demonstrations and alone, each followed by its answer but for the last token."""
        forced = [query.ids[query.right][:-1] for query in self.evaluator.queries]
        behind, alone = (
            [[*own, *more] for own, more in zip(self.ids(which), forced, strict=True)] for which in (order, ALONE)
        )
        return paired(self.task.lens_model, behind, alone, [len(one) + 1 for one in forced], emphasis)

    def tokens(self, order: Order) -> float:
        """Mean tokens of a prompt with a query."""
        ids = self.ids(order)
        return sum(map(len, ids)) / len(ids)
