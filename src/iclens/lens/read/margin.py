"""The number that is explained: a margin that is linear in the logits, and an answer's log-probability.

`Readout` says what is read of one prompt, `Readouts` is the same of a batch as tensors. Read-outs differ in number and
place; shorter ones are filled up with a repetition of weight zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.model.placed import has_double, wide
from iclens.lens.read.padded import OfPrompts, PaddedTokens


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


@dataclass(frozen=True)
class Readouts(OfPrompts):
    """margin[b] = Σ_t term_weights[b, t] · logits[b, term_rows[b, t], term_indices[b, t]].

    Attributes:
        positions: the token positions that are read in each prompt, the rows of its logits; filled up with its last.
        term_rows: for each term, which of these positions; beside it its vocabulary index.
        term_weights: its weight, zero where filled up; float64 where the device has it.
        answer_rows: for each of the answer's tokens, which of the positions; beside it its vocabulary index.
        answer_weights: one, or zero where filled up.
    """

    positions: Int[Tensor, "batch n_positions"]
    term_rows: Int[Tensor, "batch n_terms"]
    term_indices: Int[Tensor, "batch n_terms"]
    term_weights: Float[Tensor, "batch n_terms"]
    answer_rows: Int[Tensor, "batch n_answer"]
    answer_indices: Int[Tensor, "batch n_answer"]
    answer_weights: Float[Tensor, "batch n_answer"]

    @classmethod
    def of(cls, readouts: Sequence[Readout], origins: Sequence[int], device: torch.device) -> Readouts:
        """Place prompts' read-outs side by side; `origins` are the positions of their offset 0: the last tokens."""
        terms = [[(one.offsets.index(p), i, w) for p, i, w in one.terms] for one in readouts]
        answers = [
            [(one.offsets.index(one.answer_offset + t), i, 1.0) for t, i in enumerate(one.answer_ids)]
            for one in readouts
        ]
        positions = [[origin + p for p in one.offsets] for origin, one in zip(origins, readouts, strict=True)]
        longest = max(map(len, positions))
        positions = [[*own, *[own[-1]] * (longest - len(own))] for own in positions]
        parts = [torch.tensor(positions), *_columns(terms), *_columns(answers)]
        if not has_double(device):
            parts = [part.float() if part.is_floating_point() else part for part in parts]
        return cls(*(part.to(device) for part in parts))

    def check(self, tokens: PaddedTokens, n_vocabulary: int) -> None:
        """Refuse read-outs that reach outside their prompts, their queries or the vocabulary.

        Raises:
            UserError: a position or an index is too large, or a position lies before its prompt's query.
        """
        last = self.positions.amax(1)
        for position, length in zip(last.tolist(), tokens.lengths.tolist(), strict=True):
            if position >= length:
                raise UserError(f"the read-out asks for position {position} of a prompt of {length} tokens.")
        index = max(int(self.term_indices.max()), int(self.answer_indices.max()))
        if index >= n_vocabulary:
            raise UserError(f"the read-out asks for vocabulary index {index}; the model has {n_vocabulary} tokens.")
        for position, start in zip(self.positions.amin(1).tolist(), tokens.starts.tolist(), strict=True):
            if start > position:
                raise UserError(
                    f"the query starts at token {start}, but the margin is read at token {position}: the query's "
                    "tokens must include every position that is read."
                )

    def one_logit(self, row: int, index: int) -> Readouts:
        """The logit of one vocabulary index at one of the positions, in place of the margin."""
        rows = torch.full_like(self.term_rows[:, :1], row)
        weights = torch.ones_like(self.term_weights[:, :1])
        return replace(self, term_rows=rows, term_indices=torch.full_like(rows, index), term_weights=weights)

    def to(self, device: torch.device) -> Readouts:
        """The same on another device."""
        if self.positions.device == device:
            return self
        return Readouts(*(part.to(device) for part in vars(self).values()))

    def margin(self, logits: Float[Tensor, "batch *sets n_positions vocabulary"]) -> Float[Tensor, "batch ..."]:
        """Every prompt's margin, for logits whose rows are `positions`; `sets` is an axis of variations or none."""
        picked = self.terms_of(logits)
        weights = self.term_weights.to(picked)
        return (picked * (weights if logits.ndim == 3 else weights[:, None])).sum(-1)

    def log_probability(
        self, logits: Float[Tensor, "batch *sets n_positions vocabulary"]
    ) -> Float[Tensor, "batch ..."]:
        """log p(answer) of every prompt, summed over its tokens; zero without an answer."""
        here = self.to(logits.device)
        picked = wide(_pick(logits, here.answer_rows, here.answer_indices))
        sums = torch.logsumexp(wide(logits), -1, keepdim=True)
        normaliser = _pick(sums, here.answer_rows, torch.zeros_like(here.answer_rows))
        weights = here.answer_weights.to(picked)
        return ((picked - normaliser) * (weights if logits.ndim == 3 else weights[:, None])).sum(-1)

    def gains(
        self,
        before: Float[Tensor, "batch n_positions vocabulary"],
        logits: Float[Tensor, "batch n_positions vocabulary"],
    ) -> Float[Tensor, "batch n_terms"]:
        """The weight of each term on the unembedding's own output, with the logits' soft cap or scale held.

        A model may end with logits = f(before) for each logit alone (c·tanh(·/c), or a constant factor). With f(l)/l
        held at its value the margin is Σ_t gains_t · before[row_t, index_t], exactly.
        """
        raw, final = self.terms_of(before), self.terms_of(logits)
        held = torch.where(raw == 0, torch.ones_like(raw), final / torch.where(raw == 0, 1.0, raw))
        return held * self.term_weights.to(held)

    def largest(self, logits: Float[Tensor, "batch n_positions vocabulary"]) -> Float[Tensor, " batch"]:
        """The largest |weight · logit| that each prompt's margin adds up."""
        picked = self.terms_of(logits)
        return (picked * self.term_weights.to(picked)).abs().amax(-1)

    def terms_of(
        self, values: Float[Tensor, "batch *sets n_positions vocabulary"]
    ) -> Float[Tensor, "batch *sets n_terms"]:
        """The number that each term names, in no less than single precision."""
        here = self.to(values.device)
        return wide(_pick(values, here.term_rows, here.term_indices))


def _pick(values: Tensor, rows: Tensor, indices: Tensor) -> Tensor:
    """(batch, [n_sets,] n_positions, vocabulary) at each prompt's (row, index): (batch, [n_sets,] n_terms)."""
    batch = torch.arange(len(values), device=values.device)[:, None]
    return values.movedim(-2, 1)[batch, rows, ..., indices].movedim(1, -1)


def _columns(entries: Sequence[Sequence[tuple[int, int, float]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, indices and weights, filled up with weight zero."""
    longest = max(1, *(len(one) for one in entries))
    filled = [[*one, *[(0, 0, 0.0)] * (longest - len(one))] for one in entries]
    rows, indices = (torch.tensor([[entry[part] for entry in one] for one in filled]) for part in (0, 1))
    weights = torch.tensor([[entry[2] for entry in one] for one in filled], dtype=torch.float64)
    return rows, indices, weights
