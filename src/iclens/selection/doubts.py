"""Labels that may be wrong: what the other demonstrations would have a model say in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.attribution.shared.label_odds import LabelOdds, label_odds
from iclens.attribution.shared.label_places import orders
from iclens.lens import Lens
from iclens.lens.prompt import tokenize
from iclens.lens.read.answers import Answers
from iclens.lens.read.question import Question
from iclens.selection.evaluator import Evaluator
from iclens.selection.search import Search

N_ORDERS = 4
"""Two random orders and their reverses: in such a pair every demonstration follows each other one once."""

LEAST = 1.0
"""Nats by which the odds of another label must exceed those of a demonstration's own."""


@dataclass(frozen=True)
class Doubt:
    """Another label than a demonstration's own.

    Attributes:
        label: the label that the others suggest.
        nats: by how much its odds exceed those of the demonstration's own, both less what the label has anyway.
    """

    label: str
    nats: float


def doubts(search: Search, generator: torch.Generator) -> list[Doubt | None]:
    """Find the demonstrations whose labels the others contradict; four passes over the pool.

    A label's odds are compared with their mean over the demonstrations, each label's own counting alike, so that a
    label that the model prefers whatever the input is not suggested everywhere. Free outputs that are all different
    raise none.
    """
    found: list[Doubt | None] = [None] * search.n
    order = torch.randperm(search.n, generator=generator).tolist()
    for prompt in search.divided(order):
        outputs = [str(search.evaluator.shots[i].output).strip() for i in prompt]
        if len(set(outputs)) < 2 or len(set(outputs)) > len(outputs) / 2:
            continue
        odds = _odds(search.evaluator, prompt, orders(generator, len(prompt), N_ORDERS))
        named = {int(label): outputs[place] for place, label in enumerate(odds.own)}
        if len(named) < len(set(outputs)):
            # Two labels begin with one token, so that their odds do not tell them apart.
            continue
        excess = odds.odds - centre(odds)
        for place, i in enumerate(prompt):
            best = int(excess[place].argmax())
            nats = float(excess[place, best] - excess[place, odds.own[place]])
            # The others do not suggest a label that is the less likely one at this place itself.
            if nats >= LEAST and float(odds.odds[place, best]) > 0:
                found[i] = Doubt(named[best], nats)
    return found


def centre(odds: LabelOdds) -> Float[Tensor, " n_labels"]:
    """The odds that each label has anyway: the mean over the labels of its mean over their demonstrations."""
    return torch.stack([odds.odds[odds.own == label].mean(0) for label in odds.own.unique()]).mean(0)


def _odds(evaluator: Evaluator, prompt: tuple[int, ...], some_orders: list[list[int]]) -> LabelOdds:
    query = evaluator.queries[0]
    written = evaluator.writing.prompt([evaluator.shots[i] for i in prompt], query.example.input)

    def compute() -> tuple[list[Any], int]:
        model = evaluator.lens_model
        tokenized = tokenize(written, model.tokenizer, model.context_length)
        lens = Lens(model, Question(tokenized, Answers((), None), query.readout))
        read = label_odds(lens, some_orders)
        numbers = [read.odds.tolist(), read.own.tolist(), list(read.tokens)]
        return numbers, len(some_orders) * tokenized.n_tokens

    values, own, tokens = evaluator.ledger.numbers(["doubts", prompt, some_orders, query.example.input], compute)
    return LabelOdds(torch.tensor(values, dtype=torch.float64), torch.tensor(own), tuple(tokens))
