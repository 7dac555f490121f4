"""What the model expects in the place of every demonstration's label: the odds of each known label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.attribution.shared.label_places import expected, label_places, reordered
from iclens.lens.lens import Lens


@dataclass(frozen=True)
class LabelOdds:
    """The mean over orders of log p(label)/p(other labels), by their first tokens, given all text before.

    Attributes:
        odds: of every known label at the place of each demonstration's own; 0 where no other label is known.
        own: which of the labels is each demonstration's.
        tokens: the first token of each label, in the order of the vocabulary.
    """

    odds: Float[Tensor, "n n_labels"]
    own: Int[Tensor, " n"]
    tokens: tuple[int, ...]

    @property
    def of_own(self) -> Float[Tensor, " n"]:
        """The odds of each demonstration's own label."""
        return self.odds.gather(1, self.own[:, None])[:, 0]


def label_odds(lens: Lens, some_orders: Sequence[Sequence[int]]) -> LabelOdds:
    """Read the odds of the labels in some orders of the demonstrations, a pass each.

    Raises:
        UserError: the label of a demonstration is not known.
    """
    first = torch.zeros(lens.n_demonstrations, dtype=torch.long)
    found: list[tuple[Sequence[int], Tensor]] = []
    prompts = [reordered(lens.prompt, order) for order in some_orders]
    for order, (tokenized, log_p) in zip(some_orders, expected(lens, prompts), strict=True):
        first[list(order)] = tokenized.input_ids[[place[0] for place in label_places(tokenized)]].cpu()
        found.append((order, torch.stack([rows[0, first.unique()] for rows in log_p])))
    known = first.unique()
    odds = torch.zeros(len(first), len(known), dtype=torch.float64)
    for order, rows in found:
        odds[list(order)] += _odds(rows)
    return LabelOdds(odds / len(found), torch.searchsorted(known, first), tuple(known.tolist()))


def _odds(log_p: Float[Tensor, "n n_labels"]) -> Float[Tensor, "n n_labels"]:
    """Log-odds of each column against the sum of the others."""
    if log_p.shape[1] < 2:
        return torch.zeros_like(log_p)
    others = ~torch.eye(log_p.shape[1], dtype=torch.bool)
    return torch.stack([log_p[:, j] - log_p[:, others[j]].logsumexp(1) for j in range(log_p.shape[1])], 1)
