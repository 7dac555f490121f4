"""What the model answers to many prompts, and which number of each is to be explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from iclens.lens.answers import Answers, Margin, token_text
from iclens.lens.batch.reading import Reading, unembedding_only
from iclens.lens.batch.trace import BatchTrace, Tokens, trace_batch
from iclens.lens.capture import run
from iclens.lens.explanation import Candidate
from iclens.lens.loading import LensModel
from iclens.lens.readout import Readout
from iclens.lens.rerun import reading as margin_reading
from iclens.lens.rotary import longest_alike
from iclens.lens.tokens import TokenizedPrompt


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


def side_by_side(rows: Sequence[Tensor], starts: Sequence[int], device: torch.device) -> Tokens:
    """Token ids of several prompts, filled up on the right with each one's last."""
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max())
    # A padding token of the vocabulary would have transformers warn of a mask that is not needed here.
    ids = torch.stack([torch.cat([row, row[-1:].expand(longest - len(row))]) for row in rows])
    return Tokens(ids.to(device), lengths.to(device), torch.tensor(starts, device=device))


@torch.no_grad()
def answer_batch(lens_model: LensModel, asked: Sequence[Asked], most_tokens: int) -> tuple[list[Said], BatchTrace]:
    """Run the model on the prompts, score their candidates, and read every margin.

    Returns:
        the answers, and the pass in which every margin is read.
    """
    ids = [one.tokenized.input_ids for one in asked]
    starts = [one.tokenized.query_start for one in asked]
    tokens = side_by_side(ids, starts, lens_model.device)
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
        return said, trace_batch(lens_model, side_by_side(whole, starts, lens_model.device), readings)
    return said, replace(traced, reading=readings)


def _scores(
    lens_model: LensModel, asked: Sequence[Asked], next_log_probabilities: Tensor, most_tokens: int
) -> list[tuple[float, ...]]:
    """log p(answer | prompt) of every candidate of every prompt, in nats."""
    several = [any(len(entry.token_ids) > 1 for entry in one.answers.candidates) for one in asked]
    behind = iter(_score_rows(lens_model, [one for one, some in zip(asked, several, strict=True) if some], most_tokens))
    return [
        next(behind) if some else tuple(float(every[entry.token_ids[0]]) for entry in one.answers.candidates)
        for one, some, every in zip(asked, several, next_log_probabilities, strict=True)
    ]


def _score_rows(lens_model: LensModel, asked: Sequence[Asked], most_tokens: int) -> list[tuple[float, ...]]:
    """As `score_candidates`: each candidate behind its prompt, the sum over all its tokens."""
    rows = [(one.tokenized.input_ids, entry.token_ids) for one in asked for entry in one.answers.candidates]
    longest = max((len(ids) + len(answer) - 1 for ids, answer in rows), default=1)
    alike = longest_alike(lens_model)
    step = 1 if alike is not None and longest > alike else max(1, most_tokens // longest)
    scores: list[float] = []
    for first in range(0, len(rows), step):
        some = rows[first : first + step]
        whole = [torch.cat([ids, torch.tensor(answer[:-1], dtype=torch.long)]) for ids, answer in some]
        tokens = side_by_side(whole, [0] * len(some), lens_model.device)
        answers = [
            Readout(((0, 0, 1.0),), tuple((len(ids) - 1 + at, index) for at, index in enumerate(answer)))
            for ids, answer in some
        ]
        reading = Reading.of(answers, lens_model.device)
        with unembedding_only(lens_model, reading.positions):
            logits = run(lens_model, tokens.ids, position_ids=tokens.places)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        scores += reading.log_probability(wide[:, None])[:, 0].double().tolist()
    waiting = iter(scores)
    return [tuple(next(waiting) for _ in one.answers.candidates) for one in asked]
