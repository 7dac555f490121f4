"""DETAIL: influence functions of a ridge regression from the model's hidden states to the labels."""

from __future__ import annotations

from functools import partial

import torch

from iclens.attribution import ATTRIBUTIONS
from iclens.lens import Lens
from iclens.lens.prompt import tokenize
from iclens.lens.read.answers import Answers
from iclens.lens.read.question import Question
from iclens.selection.asked import Query
from iclens.selection.evaluator import Evaluator
from iclens.selection.search import METHODS, Found, Search


@METHODS.register("detail")
def choose(search: Search) -> Found:
    """Keep the demonstrations with the largest mean influence on the development examples; without `k` the positive.

    A pass over the whole pool for each development example, as many as the budget allows.

    Raises:
        UserError: the pool does not fit into one prompt.

    Source: Zhou, Lin, Xu et al. 2024, "DETAIL: Task DEmonsTration Attribution for Interpretable In-context Learning".
    """
    evaluator = search.evaluator
    search.check_one_prompt("detail")
    n_queries = max(1, min(len(evaluator.queries), int(search.left)))
    each = [
        evaluator.ledger.numbers(["detail", query.example.input], partial(_influences, evaluator, query))
        for query in evaluator.queries[:n_queries]
    ]
    scores = torch.tensor(each, dtype=torch.float64).mean(0)
    chosen = search.best(scores.tolist(), search.k or max(1, int((scores > 0).sum())))
    return Found(tuple(sorted(chosen) if search.order == "given" else chosen[::-1]), scores)


def _influences(evaluator: Evaluator, query: Query) -> tuple[list[float], int]:
    """Return the influence of every demonstration of the pool on one query, and the tokens read."""
    model = evaluator.lens_model
    prompt = evaluator.writing.prompt(evaluator.shots, query.example.input)
    tokenized = tokenize(prompt, model.tokenizer, model.context_length)
    lens = Lens(model, Question(tokenized, Answers((), None), query.readout))
    return ATTRIBUTIONS["detail"](lens, torch.Generator()).values.tolist(), tokenized.n_tokens
