"""A prompt that is ready to go through a model, and what the model answers to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.facts import Candidate, NextToken
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt import Prompt, PromptOptions, TokenizedPrompt, read_document, tokenize
from iclens.lens.prompt.documents import read_answers
from iclens.lens.read.answers import Answers
from iclens.lens.read.margin import Readout
from iclens.lens.read.response import Response
from iclens.lens.read.response_options import KEYS, ResponseOptions
from iclens.lens.read.statements import Statement, statements

PromptLike = Prompt | str | Sequence[Any] | Mapping[str, Any]
"""A prompt, or a document that `read_document` reads: plain text, pairs, chat messages, or an object of these."""


@dataclass(frozen=True)
class Question:
    """A prompt as tokens, with its candidate answers.

    Attributes:
        tokenized: the prompt.
        answers: its candidate answers, as tokens.
        readout: what is to be explained; None when the answers decide it.
        id: the prompt's own name.
        response: the response that the read-out is of; None for answers.
        foil: the same prompt with the response that this one is compared with, or None.
        writing: options of a response that `responding` has yet to read or let the model write; None without one.
    """

    tokenized: TokenizedPrompt
    answers: Answers
    readout: Readout | None = None
    id: str | None = None
    response: Response | None = None
    foil: Question | None = None
    writing: ResponseOptions | None = None

    def __post_init__(self) -> None:
        if self.readout is not None and 0 not in self.readout.offsets:
            raise UserError("the read-out of a prompt must read its last token, at offset 0.")

    @property
    def settled(self) -> Readout | None:
        """What is to be explained, where it does not depend on what the model says."""
        return self.readout or self.answers.settled

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """The statements of its response, where there are several and they sum to what is explained."""
        found = () if self.response is None or self.foil is not None else statements(self.response)
        return found if len(found) > 1 else ()

    @property
    def n_answer(self) -> int:
        """Tokens that are read of the longest candidate answer; 1 where there are no candidates."""
        return max((len(one.read_ids) for one in self.answers.candidates), default=1)

    @property
    def longest(self) -> int:
        """Most tokens that will go through the model for it."""
        forced = len(self.readout.forced) if self.readout else 0
        behind = 0 if self.writing is None or self.writing.generate is None else self.writing.generate - 1
        return self.tokenized.n_tokens + max(self.n_answer - 1, forced, behind)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is doubtful about its answers."""
        response = () if self.response is None else self.response.notes
        return (*self.answers.notes, *response, *(() if self.foil is None else self.foil.notes))

    @property
    def n_query(self) -> int:
        """Tokens of its query, and of the longest answer after it."""
        return self.longest - self.tokenized.query_start


@dataclass(frozen=True)
class Answer:
    """What a model answers to a prompt.

    Attributes:
        text: the explained answer.
        margin: its logit over its alternatives, in nats.
        log_probability: log p(answer | prompt), the sum over its tokens.
        definition: one sentence that says over which alternatives.
        candidates: the candidate answers with their scores; empty when there are none.
        next_tokens: the likeliest next tokens, most likely first.
        next_logits: the logits at the prompt's last token.
        readout: what is explained.
    """

    text: str
    margin: float
    log_probability: float
    definition: str
    candidates: tuple[Candidate, ...]
    next_tokens: tuple[NextToken, ...]
    next_logits: Float[Tensor, " n_vocabulary"]
    readout: Readout


def ask(
    lens_model: LensModel,
    prompt: Any,
    answers: Iterable[str] | None = None,
    answer: str | None = None,
    options: PromptOptions | None = None,
    readout: Readout | None = None,
    *,
    response: ResponseOptions | None = None,
    binding: bool = False,
) -> Question:
    """Tokenise a prompt with its candidate answers, and check that they fit the model.

    Args:
        lens_model: the model; its weights are not used.
        prompt: a `PromptLike`; an object may hold `"answers"` and `"answer"`, which then are all of them, and what
            `ResponseOptions` has.
        answers: candidate answers where the document names none.
        answer: the answer to explain where the document names none.
        options: how a document is written where it does not say itself.
        binding: whether the options are meant for this prompt, as in `read_document`.
        readout: what is explained, instead of what the answers decide.
        response: options of a response, where the document has none of its own; `responding` reads it.

    Raises:
        UserError: the prompt or an answer cannot be read, does not fit, or cannot be distinguished from another.
    """
    if isinstance(answers, str):
        raise UserError(f"the answers are the text {answers!r}: give a list, e.g. answers=[{answers!r}, '...'].")
    name, wanted = None, response or ResponseOptions()
    if isinstance(prompt, Mapping):
        own, name = read_answers(prompt), prompt.get("id")
        wanted = wanted.settled(prompt)
        responds = any(prompt.get(key) is not None for key in ("response", "generate"))
        prompt = {key: value for key, value in prompt.items() if key not in ("id", "answers", "answer", *KEYS)}
        answers, answer = own if responds or own[0] or own[1] is not None else (answers, answer)
    tokenizer, limit = lens_model.tokenizer, lens_model.context_length
    if not isinstance(prompt, Prompt):
        document = list(prompt) if isinstance(prompt, Sequence) and not isinstance(prompt, str) else prompt
        prompt = read_document(document, tokenizer, options, binding=binding)
    elif binding and options != PromptOptions():
        raise UserError("the prompt is a Prompt already: give the options to what makes it, e.g. Prompt.from_chat.")
    tokenized = tokenize(prompt, tokenizer, limit)
    built = Answers.build(tokenized, tokenizer, answers or None, answer, limit)
    question = Question(tokenized, built, readout, None if name is None else str(name))
    if len(built.candidates) > 1:
        # Which is the likeliest is not known yet, but whether each could be told from the others is.
        for chosen in range(len(built.candidates)) if built.explained is None else [built.explained]:
            built.readout(tokenizer, torch.zeros(1), chosen)
    if limit is not None and question.longest > limit:
        raise UserError(
            f"prompt and answer together have {question.longest} tokens, but the model's context holds {limit}: "
            "shorten the prompt."
        )
    # Whether there is room for a response is checked where it is read.
    return replace(question, writing=wanted) if wanted.given else question
