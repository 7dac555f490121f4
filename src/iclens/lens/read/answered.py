"""A model's answer to a prompt, and the one pass that explains it: where the whole lens and its live view begin."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.lens.explanation import Candidate
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.tokens import NOT_A_DEMONSTRATION, TokenizedPrompt
from iclens.lens.read.answers import Answers, Margin
from iclens.lens.read.candidate_scores import score_candidates
from iclens.lens.read.readout import Readout
from iclens.lens.read.trace import Trace, trace
from iclens.lens.scores.rerun import reading


@dataclass(frozen=True)
class Answered:
    """What the model answers, and the number that is to be explained.

    Attributes:
        tokenized: the prompt.
        answers: the candidates as tokens.
        candidates: the candidates with their scores; empty when there are none.
        margin: the margin of the explained answer.
        first: the pass over the prompt, read at its last token.
        forward_passes: what it cost.
    """

    tokenized: TokenizedPrompt
    answers: Answers
    candidates: tuple[Candidate, ...]
    margin: Margin
    first: Trace
    forward_passes: int


@dataclass(frozen=True)
class Read:
    """The pass in which the margin is read: the prompt, and the answer's tokens that are forced behind it.

    Attributes:
        traced: the pass.
        groups: the demonstration of each of its tokens, −1 for none.
        roles: the role of each of its tokens; `"answer"` for the forced ones.
        forced: vocabulary ids of the forced tokens.
        forward_passes: what it cost beyond `Answered`.
    """

    traced: Trace
    groups: Int[Tensor, " n"]
    roles: tuple[str, ...]
    forced: tuple[int, ...]
    forward_passes: int


def answer_prompt(
    lens_model: LensModel,
    tokenized: TokenizedPrompt,
    answers: Sequence[str] | None = None,
    answer: str | None = None,
) -> Answered:
    """Run the model on a prompt, score the candidates, and choose what is explained.

    Args:
        lens_model: a causal language model.
        tokenized: the prompt.
        answers: candidate answers; the likeliest is explained.
        answer: the answer to explain instead.

    Raises:
        UserError: an answer that `Answers.build` or `Answers.margin` refuses.
    """
    built = Answers.build(tokenized, lens_model.tokenizer, answers, answer, lens_model.context_length)
    last = Readout(((tokenized.n_tokens - 1, 0, 1.0),))
    first = trace(lens_model, tokenized.input_ids, last, tokenized.query_start)
    next_logits, n_passes = first.logits[0], 1
    if not built.candidates:
        return Answered(tokenized, built, (), built.margin(lens_model.tokenizer, next_logits), first, n_passes)
    if all(len(candidate.token_ids) == 1 for candidate in built.candidates):
        # One token each: the logits at hand hold all the scores.
        every = torch.log_softmax(next_logits.double(), -1)
        scores = tuple(float(every[candidate.token_ids[0]]) for candidate in built.candidates)
    else:
        rows = [(tokenized.input_ids, candidate.token_ids) for candidate in built.candidates]
        scores = tuple(score_candidates(lens_model, rows))
        n_passes += len(built.candidates)
    chosen = built.choose(scores)
    margin = built.margin(lens_model.tokenizer, next_logits, chosen)
    return Answered(tokenized, built, built.scored(scores, chosen), margin, first, n_passes)


def read_margin(lens_model: LensModel, answered: Answered) -> Read:
    """The pass in which the margin is read; the pass at hand when no token of the answer has to be forced."""
    tokenized = answered.tokenized
    forced, readout = reading(answered.margin, tokenized.n_tokens - 1)
    if forced:
        ids = torch.cat([tokenized.input_ids, torch.tensor(forced)])
        traced = trace(lens_model, ids, readout, tokenized.query_start)
    else:
        traced = dataclasses.replace(answered.first, readout=readout)
    groups = tokenized.groups
    return Read(
        traced=traced,
        groups=torch.cat([groups, groups.new_full((len(forced),), NOT_A_DEMONSTRATION)]),
        roles=tokenized.roles + ("answer",) * len(forced),
        forced=forced,
        forward_passes=1 if forced else 0,
    )


def by_group(
    values: Float[Tensor, "*batch n"], groups: Int[Tensor, " n"], n_groups: int
) -> Float[Tensor, "*batch n_groups"]:
    """Sum the last axis (tokens) within each demonstration; tokens of none are left out."""
    summed = values.new_zeros(*values.shape[:-1], n_groups + 1)
    slots = torch.where(groups < 0, n_groups, groups).to(values.device)
    return summed.index_add(-1, slots, values)[..., :-1]
