"""What is read from the logits: a margin that is linear in them, and an answer's log-probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError


@dataclass(frozen=True)
class Readout:
    """margin = Σ_r weight_r · logits[position_r, index_r].

    Attributes:
        terms: (token position, vocabulary index, weight) for each r. Several positions are allowed: an answer
            of several tokens is read at all of them.
        answer: (token position, vocabulary index) of each token of the answer whose log-probability is wanted;
            empty when none is.
    """

    terms: tuple[tuple[int, int, float], ...]
    answer: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.terms:
            raise UserError("the read-out has no terms: give at least one (position, vocabulary index, weight).")
        if any(p < 0 or i < 0 for p, i, _ in self.terms) or any(p < 0 or i < 0 for p, i in self.answer):
            raise UserError("the read-out's positions and vocabulary indices count from 0; a negative one was given.")

    @classmethod
    def contrast(cls, position: int, answer: int, alternatives: Sequence[int]) -> Readout:
        """The logit of `answer` minus the mean logit of `alternatives`, at one position.

        Without alternatives the margin is the logit itself.
        """
        terms = [(position, answer, 1.0)]
        terms += [(position, other, -1.0 / len(alternatives)) for other in alternatives]
        return cls(tuple(terms), ((position, answer),))

    @property
    def positions(self) -> tuple[int, ...]:
        """The token positions whose logits are needed, each once, in order: the rows of `logits`."""
        return tuple(sorted({p for p, _, _ in self.terms} | {p for p, _ in self.answer}))

    def check(self, n_tokens: int, n_vocabulary: int) -> None:
        """Refuse a read-out that reaches outside the prompt or the vocabulary.

        Raises:
            UserError: a position or an index is too large.
        """
        if max(self.positions) >= n_tokens:
            raise UserError(f"the read-out asks for position {max(self.positions)} of a prompt of {n_tokens} tokens.")
        index = max([i for _, i, _ in self.terms] + [i for _, i in self.answer])
        if index >= n_vocabulary:
            raise UserError(f"the read-out asks for vocabulary index {index}; the model has {n_vocabulary} tokens.")

    def margin(self, logits: Float[Tensor, "*sets n_positions vocabulary"]) -> Float[Tensor, "*sets"]:
        """The margin, from logits whose rows are `positions`."""
        row = {p: r for r, p in enumerate(self.positions)}
        picked = logits[..., [row[p] for p, _, _ in self.terms], [i for _, i, _ in self.terms]]
        return picked @ picked.new_tensor([w for _, _, w in self.terms])

    def largest(self, logits: Float[Tensor, "n_positions vocabulary"]) -> float:
        """The largest |weight · logit| that the margin adds up."""
        row = {p: r for r, p in enumerate(self.positions)}
        return max(abs(w * float(logits[row[p], i])) for p, i, w in self.terms)

    def log_probability(self, logits: Float[Tensor, "*sets n_positions vocabulary"]) -> Float[Tensor, "*sets"]:
        """log p(answer), summed over its tokens; zero for an empty answer."""
        row = {p: r for r, p in enumerate(self.positions)}
        # Positions of a large vocabulary are normalised one at a time to keep no second copy of the logits.
        total = logits.new_zeros(logits.shape[:-2])
        for p, i in self.answer:
            at = logits[..., row[p], :]
            total = total + at[..., i] - torch.logsumexp(at, -1)
        return total

    def gains(
        self,
        before: Float[Tensor, "n_positions vocabulary"],
        logits: Float[Tensor, "n_positions vocabulary"],
    ) -> Float[Tensor, " n_terms"]:
        """The weight of each term on the unembedding's own output, with the logits' soft cap or scale held.

        A model may end with logits = f(before) for each logit alone (c·tanh(·/c), or a constant factor). With
        f(l)/l held at its value the margin is Σ_r gains_r · before[position_r, index_r], exactly.
        """
        row = {p: r for r, p in enumerate(self.positions)}
        rows, columns = [row[p] for p, _, _ in self.terms], [i for _, i, _ in self.terms]
        raw, final = before[rows, columns], logits[rows, columns]
        held = torch.where(raw == 0, torch.ones_like(raw), final / torch.where(raw == 0, 1.0, raw))
        return held * held.new_tensor([w for _, _, w in self.terms])
