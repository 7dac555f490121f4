"""What a model answers to queries behind prompts, as plain numbers that can be kept and sent."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from iclens.lens.model.loading import LensModel
from iclens.selection.asked import Query
from iclens.selection.metrics import MATCHES, Metric, value_of
from iclens.selection.reading import log_probabilities
from iclens.selection.written import write_answers


def answers_of(
    lens_model: LensModel,
    texts: Sequence[Sequence[int]],
    queries: Sequence[Query],
    metric: Metric,
    match: str,
    stop: str,
    most_tokens: int,
) -> tuple[list[list[float]], int]:
    """Read log p of each query's right answer, and the metric of what the model answers.

    Args:
        lens_model: the model.
        texts: the tokens of each prompt with its query.
        queries: the query of each.
        metric: rates an answer; the log-loss shows the accuracy here.
        match: how a free answer is compared.
        stop: what ends a free answer that is written out.
        most_tokens: how many go through the model at once.

    Returns:
        For each text log p of the right answer, in nats (of the candidates where there are any), and the metric; and
        how many tokens were read.
    """
    pairs = list(zip(texts, queries, strict=True))
    values, greedy, tokens = log_probabilities(lens_model, pairs, most_tokens)
    free = [i for i, one in enumerate(queries) if one.is_free and (callable(metric) or match != MATCHES[0])]
    written, more = write_answers(lens_model, [pairs[i] for i in free], stop, most_tokens)
    predicted = dict(zip(free, written, strict=True))
    numbers = []
    for i, (query, own, begins) in enumerate(zip(queries, values, greedy, strict=True)):
        target = query.answers[query.right]
        if query.is_free:
            said = predicted.get(i, target if begins else "")
            log_p = own[0]
        else:
            said = query.answers[max(range(len(own)), key=own.__getitem__)]
            log_p = own[query.right] - float(torch.tensor(own, dtype=torch.float64).logsumexp(0))
        numbers.append([log_p, value_of(metric, said, target, match)])
    return numbers, tokens + more
