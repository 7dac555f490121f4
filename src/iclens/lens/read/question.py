"""A prompt that is ready to go through a model, and what the model answers to it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from iclens.lens.explanation import Candidate
from iclens.lens.prompt.tokens import TokenizedPrompt
from iclens.lens.read.answers import Answers
from iclens.lens.read.readout import Readout


@dataclass(frozen=True)
class Question:
    """A prompt as tokens, with its candidate answers.

    Attributes:
        tokenized: the prompt.
        answers: its candidate answers, as tokens.
        readout: what is to be explained; None when the answers decide it.
    """

    tokenized: TokenizedPrompt
    answers: Answers
    readout: Readout | None = None

    @property
    def settled(self) -> Readout | None:
        """What is to be explained, where it does not depend on what the model says."""
        return self.readout or self.answers.settled

    @property
    def longest(self) -> int:
        """Most tokens that will go through the model for it."""
        n_behind = max((len(one.token_ids) for one in self.answers.candidates), default=1) - 1
        return self.tokenized.n_tokens + max(n_behind, len(self.readout.forced) if self.readout else 0)

    @property
    def n_query(self) -> int:
        """Tokens of its query, and of the longest answer behind it."""
        return self.longest - self.tokenized.query_start


@dataclass(frozen=True)
class Answered:
    """The model's answer to one question.

    Attributes:
        candidates: the candidates with their scores; empty when there are none.
        readout: what is explained.
        next_logits: the logits at the prompt's last token.
    """

    candidates: tuple[Candidate, ...]
    readout: Readout
    next_logits: Float[Tensor, " n_vocabulary"]
