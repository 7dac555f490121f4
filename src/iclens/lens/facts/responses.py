"""What sources do to a response and its statements, and whether it rests on them at all."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StatementEffects:
    """A statement of a response, and what every source did to it: sums over its tokens.

    Attributes:
        start, end: its characters in the response's text, `end` not included.
        first, last: its tokens, `last` not included.
        log_probability: of these, each after those before it.
        influence: ∂ Σ_t log p_t / ∂w_i of each source; over all statements they sum to the response's influence.
        pieces: the same of what is within each source, where that was asked for.
    """

    start: int
    end: int
    first: int
    last: int
    log_probability: float
    influence: tuple[float, ...] = field(repr=False)
    pieces: tuple[tuple[float, ...], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class ResponseEffects:
    """A response that is explained as a whole or in part, and what every source did to each of its tokens.

    Attributes:
        text: the response.
        tokens: the text of each of its tokens.
        log_probabilities: of each token, after those before it.
        measure: what is read: `"log_probability"`, or `"logit"`, log p − log(1 − p).
        first, last: the tokens that are read, `last` not included: those of the statement, or all.
        statement: the part of the response that is read, or None for all of it.
        foil: the response that it is compared with, whose log-probability is subtracted, or None.
        influence: ∂ log p_t / ∂w_i by token and source, where the influence was taken; empty where it was not, or
            where the matrix was left out.
        statements: its sentences, or its lines, where there are several and the influence on the log-probability of
            all of it was taken.
    """

    text: str
    tokens: tuple[str, ...]
    log_probabilities: tuple[float, ...]
    measure: str
    first: int
    last: int
    statement: str | None = None
    foil: str | None = None
    influence: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    statements: tuple[StatementEffects, ...] = ()

    @property
    def quantity(self) -> str:
        """What the explained number is called."""
        if self.foil is not None:
            return "log-probability difference"
        return "log-probability" if self.measure == "log_probability" else "logit of the probability"


@dataclass(frozen=True)
class Grounding:
    """What the model says when the text of every source is deleted.

    Attributes:
        answer: what it says then: its likeliest candidate, or, without candidates, its likeliest next token.
        probability: of that.
        log_probability: of the explained answer then, over all its tokens: what the rest of the prompt, and what the
            model knows, give it.
        margin: the explained margin then.
        gain: the answer's log-probability in the whole prompt minus that: what the sources give it.
        log_probabilities: of each token of a response then; empty for answers.
    """

    answer: str
    probability: float
    log_probability: float
    margin: float
    gain: float
    log_probabilities: tuple[float, ...] = ()

    @property
    def share(self) -> float:
        """The part of the answer's probability that it loses without the sources, 1 − exp(−gain); 0 where it gains."""
        return lost(self.gain)


def lost(gain: float) -> float:
    """The part of a probability that is lost with a gain of log-probability, 1 − exp(−gain); 0 where that is a loss."""
    return -math.expm1(-max(gain, 0.0))
