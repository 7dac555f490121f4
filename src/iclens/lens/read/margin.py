"""The number that is explained: a margin that is linear in the logits, or what a whole answer's probability gives.

`Readout` says what is read of one prompt, `Readouts` is the same of a batch as tensors. Read-outs differ in number and
place; shorter ones are filled up with a repetition of weight zero.

A log-probability is not linear in the logits. With the model's own probabilities p held at their values it is, up to
a constant: log p(y) = (l_y − Σ_v p_v l_v) − H(p), with H the entropy of the prediction. Decompositions that need a
linear number take this one, and report the constant as a separate part.
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

MEASURES = ("log_probability", "logit")
"""What may be read of a whole answer besides a margin: log p, or log p − log(1 − p)."""


@dataclass(frozen=True)
class Readout:
    """margin = Σ_terms weight · logits[origin + offset, vocabulary id], in nats; the origin is a prompt's last token.

    With a `measure`, log p(answer) or its logit log p − log(1 − p) is added to the terms.

    Attributes:
        terms: (offset, vocabulary id, weight) for each term; offset t is read after t tokens of the answer.
        answer_ids: vocabulary ids of the answer whose log-probability is read, from offset `answer_offset` on; empty
            when none is.
        append: ids to put after the prompt (teacher forcing) so that every offset of the terms has a logit.
        answer: the text of the explained answer.
        definition: one sentence that says over which alternatives.
        answer_offset: where the answer's first token is predicted; 0 after a prompt.
        measure: one of `MEASURES`, or empty for the terms alone.
    """

    terms: tuple[tuple[int, int, float], ...]
    answer_ids: tuple[int, ...] = ()
    append: tuple[int, ...] = ()
    answer: str = ""
    definition: str = ""
    answer_offset: int = 0
    measure: str = ""

    def __post_init__(self) -> None:
        if not self.terms:
            raise UserError("the read-out has no terms: give at least one (position, vocabulary index, weight).")
        if any(p < 0 or i < 0 for p, i, _ in self.terms) or any(i < 0 for i in self.answer_ids):
            raise UserError("the read-out's positions and vocabulary indices count from 0; a negative one was given.")
        if self.measure and self.measure not in MEASURES:
            raise UserError(f"the measure is {self.measure!r}: give {' or '.join(map(repr, MEASURES))}.")

    @classmethod
    def contrast(cls, offset: int, answer: int, alternatives: Sequence[int]) -> Readout:
        """Return the logit of `answer` minus the mean logit of `alternatives`, at one offset.

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
        measures: what is added to the terms of each prompt: 0 nothing, else the number of one of `MEASURES`, from 1.
    """

    positions: Int[Tensor, "batch n_positions"]
    term_rows: Int[Tensor, "batch n_terms"]
    term_indices: Int[Tensor, "batch n_terms"]
    term_weights: Float[Tensor, "batch n_terms"]
    answer_rows: Int[Tensor, "batch n_answer"]
    answer_indices: Int[Tensor, "batch n_answer"]
    answer_weights: Float[Tensor, "batch n_answer"]
    measures: Int[Tensor, " batch"]

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
        measures = torch.tensor([1 + MEASURES.index(one.measure) if one.measure else 0 for one in readouts])
        parts = [torch.tensor(positions), *_columns(terms), *_columns(answers), measures]
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
        """Return the logit of one vocabulary index at one of the positions, in place of the margin."""
        rows = torch.full_like(self.term_rows[:, :1], row)
        weights, indices = torch.ones_like(self.term_weights[:, :1]), torch.full_like(rows, index)
        nothing = torch.zeros_like(self.measures)
        return replace(self, term_rows=rows, term_indices=indices, term_weights=weights, measures=nothing)

    def to(self, device: torch.device) -> Readouts:
        """Return the same on another device."""
        if self.positions.device == device:
            return self
        return Readouts(*(part.to(device) for part in vars(self).values()))

    def margin(self, logits: Float[Tensor, "batch *sets n_positions vocabulary"]) -> Float[Tensor, "batch ..."]:
        """Every prompt's margin, for logits whose rows are `positions`; `sets` is an axis of variations or none."""
        picked = self.terms_of(logits)
        weights = self.term_weights.to(picked)
        margin = (picked * (weights if logits.ndim == 3 else weights[:, None])).sum(-1)
        if self.is_linear:
            return margin
        log_p = self.log_probability(logits)
        measures = self.measures.to(log_p.device).reshape(-1, *(1,) * (log_p.ndim - 1)).expand_as(log_p)
        # Where no logit is read, −1 keeps it and its gradient finite.
        logit = logit_of(torch.where(measures == _LOGIT, log_p, -1.0))
        added = torch.where(measures == _LOGIT, logit, torch.where(measures > 0, log_p, 0.0))
        return margin + added.to(margin)

    @property
    def is_linear(self) -> bool:
        """Whether every margin is linear in the logits."""
        return not bool(self.measures.any())

    def slopes(
        self, logits: Float[Tensor, "batch n_positions vocabulary"]
    ) -> Float[Tensor, "batch n_positions vocabulary"]:
        """The gradient of every margin with respect to its logits: what it is linear in with probabilities held."""
        here, values = self.to(logits.device), wide(logits)
        change = torch.where(here.measures > 0, 1.0, 0.0).to(values)
        p = self.log_probability(logits).to(values).exp()
        change = torch.where(here.measures == _LOGIT, 1.0 / (1.0 - p).clamp_min(_CERTAIN), change)[:, None]
        weights = here.answer_weights.to(values) * change
        read = values.new_zeros(values.shape[:2]).scatter_add(1, here.answer_rows, weights)
        slopes = torch.softmax(values, -1).mul_(-read[..., None])
        batch = torch.arange(len(values), device=values.device)[:, None]
        slopes.index_put_((batch, here.answer_rows, here.answer_indices), weights, accumulate=True)
        slopes.index_put_((batch, here.term_rows, here.term_indices), here.term_weights.to(values), accumulate=True)
        return slopes

    def rest(self, logits: Float[Tensor, "batch n_positions vocabulary"]) -> Float[Tensor, " batch"]:
        """What a margin is more than ⟨slopes, logits⟩: minus the entropy of the predictions that are read; 0 of terms.

        Of a logit also what the other answers' log-probability adds.
        """
        margin = self.margin(logits)
        return torch.zeros_like(margin) if self.is_linear else margin - (self.slopes(logits) * wide(logits)).sum((1, 2))

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
        """Return the weight of each term on the unembedding's own output, with the logits' soft cap or scale held.

        A model may end with logits = f(before) for each logit alone (c·tanh(·/c), or a constant factor). With f(l)/l
        held at its value the margin is Σ_t gains_t · before[row_t, index_t], exactly.
        """
        raw, final = self.terms_of(before), self.terms_of(logits)
        return _held(raw, final) * self.term_weights.to(raw)

    def dense_gains(
        self,
        before: Float[Tensor, "batch n_positions vocabulary"],
        logits: Float[Tensor, "batch n_positions vocabulary"],
    ) -> Float[Tensor, "batch n_positions vocabulary"]:
        """The same weight of every logit, for read-outs of whole answers: ⟨gains, before⟩ + `rest` is the margin."""
        return _held(wide(before), wide(logits)) * self.slopes(logits)

    def largest(self, logits: Float[Tensor, "batch n_positions vocabulary"]) -> Float[Tensor, " batch"]:
        """Return the largest |weight · logit| that each prompt's margin adds up."""
        picked = self.terms_of(logits)
        largest = (picked * self.term_weights.to(picked)).abs().amax(-1)
        if self.is_linear:
            return largest
        here = self.to(logits.device)
        answer = (wide(_pick(logits, here.answer_rows, here.answer_indices)) * here.answer_weights.to(picked)).abs()
        return torch.where(here.measures > 0, torch.maximum(largest, answer.amax(-1)), largest)

    def token_log_probabilities(
        self, logits: Float[Tensor, "batch n_positions vocabulary"]
    ) -> Float[Tensor, "batch n_terms"]:
        """log p of the token that each term names, at its place."""
        here = self.to(logits.device)
        sums = torch.logsumexp(wide(logits), -1, keepdim=True)
        return self.terms_of(logits) - _pick(sums, here.term_rows, torch.zeros_like(here.term_rows))

    def terms_of(
        self, values: Float[Tensor, "batch *sets n_positions vocabulary"]
    ) -> Float[Tensor, "batch *sets n_terms"]:
        """Return the number that each term names, in no less than single precision."""
        here = self.to(values.device)
        return wide(_pick(values, here.term_rows, here.term_indices))


_LOGIT = 1 + MEASURES.index("logit")
_CERTAIN = 1e-12
"""The least 1 − p that a logit is taken of."""


def logit_of(log_probabilities: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """log(p/(1 − p)) from log p, without loss for p near 0; log p is kept below −1e-12.

    Source: Cohen-Wang, Shah, Georgiev & Madry 2024, "ContextCite: attributing model generation to context".
    """
    below = log_probabilities.clamp(max=-_CERTAIN)
    return below - torch.log(-torch.expm1(below))


def _held(raw: Tensor, final: Tensor) -> Tensor:
    return torch.where(raw == 0, torch.ones_like(raw), final / torch.where(raw == 0, 1.0, raw))


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
