"""The number that is explained: a margin that is linear in the logits, and an answer's log-probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iclens.errors import UserError


@dataclass(frozen=True)
class Readout:
    """margin = Σ_terms weight · logits[origin + offset, vocabulary id], in nats; the origin is a prompt's last token.

    Attributes:
        terms: (offset, vocabulary id, weight) for each term; offset t is read after t tokens of the answer.
        answer_ids: vocabulary ids of the answer whose log-probability is read, from offset `answer_offset` on; empty
            when none is.
        append: ids to put after the prompt (teacher forcing) so that every offset of the terms has a logit.
        answer: the text of the explained answer.
        definition: one sentence that says over which alternatives.
        answer_offset: where the answer's first token is predicted; 0 after a prompt.
    """

    terms: tuple[tuple[int, int, float], ...]
    answer_ids: tuple[int, ...] = ()
    append: tuple[int, ...] = ()
    answer: str = ""
    definition: str = ""
    answer_offset: int = 0

    def __post_init__(self) -> None:
        if not self.terms:
            raise UserError("the read-out has no terms: give at least one (position, vocabulary index, weight).")
        if any(p < 0 or i < 0 for p, i, _ in self.terms) or any(i < 0 for i in self.answer_ids):
            raise UserError("the read-out's positions and vocabulary indices count from 0; a negative one was given.")

    @classmethod
    def contrast(cls, offset: int, answer: int, alternatives: Sequence[int]) -> Readout:
        """The logit of `answer` minus the mean logit of `alternatives`, at one offset.

        Without alternatives the margin is the logit itself.
        """
        terms = [(offset, answer, 1.0)]
        terms += [(offset, other, -1.0 / len(alternatives)) for other in alternatives]
        return cls(tuple(terms), (answer,), answer_offset=offset)

    @property
    def offsets(self) -> tuple[int, ...]:
        """The offsets whose logits are needed, each once, in order."""
        answer = (self.answer_offset + step for step in range(len(self.answer_ids)))
        return tuple(sorted({offset for offset, _, _ in self.terms} | set(answer)))

    @property
    def forced(self) -> tuple[int, ...]:
        """The ids to put after a prompt so that the margin and all the answer's tokens can be read."""
        return max(self.answer_ids[:-1], self.append, key=len)
