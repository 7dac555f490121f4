"""A pool without outputs: the model's own labels, with its certainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.scores.deletions import ids_of
from iclens.selection.asked import read_query
from iclens.selection.examples import Example
from iclens.selection.ledger import Ledger
from iclens.selection.reading import log_probabilities
from iclens.selection.writing import Writing

N_SHOTS = 8
"""Examples whose outputs are known that stand before a demonstration while it is labelled."""


def labelled(
    lens_model: LensModel,
    demonstrations: Sequence[Example],
    known: Sequence[Example],
    writing: Writing,
    candidates: Sequence[str],
    ledger: Ledger,
) -> tuple[tuple[Example, ...], tuple[float, ...]]:
    """Label demonstrations with the likeliest candidate after examples that are known, and say how likely it is.

    Args:
        lens_model: the model.
        demonstrations: those without outputs.
        known: examples with outputs, of which the first few are shown.
        writing: how the prompt is written.
        candidates: the labels.
        ledger: counts what is read.

    Returns:
        The same demonstrations with outputs, and the probability of each among the candidates.

    Raises:
        UserError: there are fewer than two candidates.
    """
    if len(candidates) < 2:
        raise UserError("the pool has no outputs: name at least two candidates, with which the model can label it.")
    shots = known[:N_SHOTS]
    asked = [replace(one, output=candidates[0], candidates=()) for one in demonstrations]
    prompts = [writing.prompt(shots, one.input) for one in asked]
    texts = ids_of(lens_model, prompts)

    def compute() -> tuple[list[list[float]], int]:
        queries = [read_query(lens_model, *one, candidates) for one in zip(prompts, asked, strict=True)]
        values, _, tokens = log_probabilities(lens_model, list(zip(texts, queries, strict=True)))
        return values, tokens

    values = ledger.numbers(["labels", texts, list(candidates)], compute)
    best = [max(range(len(own)), key=own.__getitem__) for own in values]
    found = [replace(one, output=candidates[i]) for one, i in zip(demonstrations, best, strict=True)]
    sure = [1 / sum(math.exp(value - own[i]) for value in own) for own, i in zip(values, best, strict=True)]
    return tuple(found), tuple(sure)
