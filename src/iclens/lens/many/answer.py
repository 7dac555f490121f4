"""What the model answers to many prompts, and which number of each is to be explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from iclens.lens.explanation import Candidate
from iclens.lens.many.reading import Reading
from iclens.lens.many.trace import BatchTrace, Tokens, trace_batch
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.tokens import TokenizedPrompt
from iclens.lens.read.answers import Answers, Margin, token_text
from iclens.lens.read.candidate_scores import score_candidates
from iclens.lens.read.readout import Readout
from iclens.lens.scores.rerun import reading as margin_reading


@dataclass(frozen=True)
class Asked:
    """A prompt that is ready to go through the model.

    Attributes:
        tokenized: the prompt.
        answers: its candidate answers, as tokens.
    """

    tokenized: TokenizedPrompt
    answers: Answers

    @property
    def longest(self) -> int:
        """Most tokens that will go through the model for it."""
        return self.tokenized.n_tokens + max((len(one.token_ids) for one in self.answers.candidates), default=1) - 1

    @property
    def n_query(self) -> int:
        """Tokens of its query, and of the longest answer behind it."""
        return self.longest - self.tokenized.query_start


@dataclass(frozen=True)
class Said:
    """The model's answer to one prompt.

    Attributes:
        candidates: the candidates with their scores; empty when there are none.
        margin: the margin of the explained answer.
        next_token: the likeliest next token.
        next_probability: its probability.
    """

    candidates: tuple[Candidate, ...]
    margin: Margin
    next_token: str
    next_probability: float


@torch.no_grad()
def answer_batch(lens_model: LensModel, asked: Sequence[Asked], most_tokens: int) -> tuple[list[Said], BatchTrace]:
    """Run the model on the prompts, score their candidates, and read every margin.

    Returns:
        the answers, and the pass in which every margin is read.
    """
    ids = [one.tokenized.input_ids for one in asked]
    starts = [one.tokenized.query_start for one in asked]
    tokens = Tokens.of(ids, starts, lens_model.device)
    last = [Readout(((len(row) - 1, 0, 1.0),)) for row in ids]
    traced = trace_batch(lens_model, tokens, Reading.of(last, lens_model.device))
    logits = traced.logits[:, 0].cpu()
    log_probabilities = torch.log_softmax(logits.double(), -1)
    scores = _scores(lens_model, asked, log_probabilities, most_tokens)
    said = []
    for one, own, every, scored in zip(asked, logits, log_probabilities, scores, strict=True):
        chosen = one.answers.choose(scored) if one.answers.candidates else None
        margin = one.answers.margin(lens_model.tokenizer, own, chosen)
        candidates = () if chosen is None else one.answers.scored(scored, chosen)
        top = int(own.argmax())
        said.append(Said(candidates, margin, token_text(lens_model.tokenizer, top), float(every[top].exp())))
    read = [margin_reading(one.margin, len(row) - 1) for one, row in zip(said, ids, strict=True)]
    readings = Reading.of([readout for _, readout in read], lens_model.device)
    if any(forced for forced, _ in read):
        whole = [
            torch.cat([row, torch.tensor(forced, dtype=torch.long)]) for row, (forced, _) in zip(ids, read, strict=True)
        ]
        return said, trace_batch(lens_model, Tokens.of(whole, starts, lens_model.device), readings)
    return said, replace(traced, reading=readings)


def _scores(
    lens_model: LensModel, asked: Sequence[Asked], next_log_probabilities: Tensor, most_tokens: int
) -> list[tuple[float, ...]]:
    """log p(answer | prompt) of every candidate of every prompt, in nats."""
    several = [any(len(entry.token_ids) > 1 for entry in one.answers.candidates) for one in asked]
    rows = [
        (one.tokenized.input_ids, entry.token_ids)
        for one, some in zip(asked, several, strict=True)
        for entry in one.answers.candidates
        if some
    ]
    behind = iter(score_candidates(lens_model, rows, most_tokens))
    return [
        tuple(next(behind) if some else float(every[entry.token_ids[0]]) for entry in one.answers.candidates)
        for one, some, every in zip(asked, several, next_log_probabilities, strict=True)
    ]
