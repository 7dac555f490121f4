"""What is read from the logits of many prompts at once: every prompt's margin and its answer's log-probability.

Prompts stand side by side, padded on the right, where a causal model's real tokens never look. Their read-outs differ
in number and place; shorter ones are filled up with a repetition of weight zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclens.lens.model.loading import LensModel
from iclens.lens.read.readout import Readout


@dataclass(frozen=True)
class Reading:
    """The read-outs of a batch of prompts.

    Attributes:
        positions: the token positions that are read in each prompt, filled up with its last.
        term_rows: for each term, which of these positions.
        term_indices: its vocabulary index.
        term_weights: its weight, zero where filled up.
        answer_rows: for each of the answer's tokens, which of the positions.
        answer_indices: its vocabulary index.
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
    def of(cls, readouts: Sequence[Readout], device: torch.device) -> Reading:
        """The read-outs side by side; weights in float64."""
        rows = [{p: r for r, p in enumerate(readout.positions)} for readout in readouts]
        terms = [[(row[p], i, w) for p, i, w in one.terms] for row, one in zip(rows, readouts, strict=True)]
        answers = [[(row[p], i, 1.0) for p, i in one.answer] for row, one in zip(rows, readouts, strict=True)]
        return cls(
            _table([one.positions for one in readouts]).to(device),
            *(part.to(device) for part in _columns(terms)),
            *(part.to(device) for part in _columns(answers)),
        )

    def some(self, chosen: Tensor | slice) -> Reading:
        """The read-outs of these prompts alone."""
        return Reading(*(part[chosen] for part in vars(self).values()))

    def to(self, device: torch.device) -> Reading:
        """The same on another device."""
        if self.positions.device == device:
            return self
        return Reading(*(part.to(device) for part in vars(self).values()))

    def margin(self, logits: Float[Tensor, "batch n_sets n_positions vocabulary"]) -> Float[Tensor, "batch n_sets"]:
        """Every prompt's margin, for logits whose rows are `positions`."""
        here = self.to(logits.device)
        picked = _pick(logits, here.term_rows, here.term_indices)
        return (picked * here.term_weights.to(logits.dtype)[:, None]).sum(-1)

    def log_probability(
        self, logits: Float[Tensor, "batch n_sets n_positions vocabulary"]
    ) -> Float[Tensor, "batch n_sets"]:
        """log p(answer) of every prompt, summed over its tokens."""
        here = self.to(logits.device)
        picked = _pick(logits, here.answer_rows, here.answer_indices)
        rows = torch.arange(len(logits), device=logits.device)[:, None]
        normaliser = torch.logsumexp(logits, -1).transpose(1, 2)[rows, here.answer_rows].transpose(1, 2)
        return ((picked - normaliser) * here.answer_weights.to(logits.dtype)[:, None]).sum(-1)

    def gains(
        self,
        before: Float[Tensor, "batch n_positions vocabulary"],
        logits: Float[Tensor, "batch n_positions vocabulary"],
    ) -> Float[Tensor, "batch n_terms"]:
        """`Readout.gains` of every prompt: weights on the unembedding's own output, soft caps and scales held."""
        raw, final = self.terms_of(before), self.terms_of(logits)
        held = torch.where(raw == 0, torch.ones_like(raw), final / torch.where(raw == 0, 1.0, raw))
        return held * self.term_weights.to(held)

    def largest(self, logits: Float[Tensor, "batch n_positions vocabulary"]) -> Float[Tensor, " batch"]:
        """The largest |weight · logit| that each prompt's margin adds up."""
        return (self.terms_of(logits) * self.term_weights.to(logits.device)).abs().amax(-1)

    def terms_of(self, values: Float[Tensor, "batch n_positions vocabulary"]) -> Float[Tensor, "batch n_terms"]:
        """The number that each term names."""
        here = self.to(values.device)
        return _pick(values[:, None], here.term_rows, here.term_indices)[:, 0]


def take(x: Tensor, positions: Int[Tensor, "batch n_positions"]) -> Tensor:
    """x[b, positions[b]] for every prompt b: (batch, n, ...) -> (batch, n_positions, ...)."""
    positions = positions.to(x.device)
    return x[torch.arange(len(x), device=x.device)[:, None], positions]


@contextmanager
def unembedding_only(lens_model: LensModel, positions: Int[Tensor, "batch n_positions"]) -> Iterator[None]:
    """Inside, the model's logits are those of these positions of each prompt, and no others are computed."""
    head = lens_model.anatomy.head
    assert head is not None

    def hook(module: nn.Module, args: Any) -> Any:
        return (take(args[0], positions), *args[1:])

    handle = head.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _pick(logits: Tensor, rows: Tensor, indices: Tensor) -> Tensor:
    """(batch, n_sets, n_positions, vocabulary) at each prompt's (row, index): (batch, n_sets, n_terms)."""
    batch = torch.arange(len(logits), device=logits.device)[:, None]
    return logits.transpose(1, 2)[batch, rows, :, indices].transpose(1, 2)


def _table(lists: Sequence[Sequence[int]]) -> Int[Tensor, "batch longest"]:
    longest = max(len(one) for one in lists)
    return torch.tensor([[*one, *[one[-1]] * (longest - len(one))] for one in lists], dtype=torch.long)


def _columns(entries: Sequence[Sequence[tuple[int, int, float]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, indices and weights, filled up with weight zero."""
    longest = max(1, *(len(one) for one in entries))
    filled = [[*one, *[(0, 0, 0.0)] * (longest - len(one))] for one in entries]
    rows, indices = (torch.tensor([[entry[part] for entry in one] for one in filled]) for part in (0, 1))
    weights = torch.tensor([[entry[2] for entry in one] for one in filled], dtype=torch.float64)
    return rows, indices, weights
