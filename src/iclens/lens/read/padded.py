"""Token ids of several prompts side by side, filled up on the right, where a causal model's real tokens never look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel

P = TypeVar("P", bound="OfPrompts")


class OfPrompts:
    """A record of tensors, each with an axis of prompts first: `record[b]` is one prompt's, `record[a:b]` some."""

    def __getitem__(self: P, chosen: int | slice | Tensor) -> P:
        return type(self)(*(part[chosen] for part in vars(self).values()))

    @classmethod
    def joined(cls: type[P], records: Sequence[P]) -> P:
        """Return the prompts of several records, one after the other."""
        return cls(*(torch.cat(parts) for parts in zip(*(vars(one).values() for one in records), strict=True)))

    def replaced(self: P, some: Int[Tensor, " some"], others: P) -> P:
        """Return the same record with other numbers of some prompts."""
        parts = zip(vars(self).values(), vars(others).values(), strict=True)
        return type(self)(*(mine.index_copy(0, some, other) for mine, other in parts))


@dataclass(frozen=True)
class PaddedTokens(OfPrompts):
    """Prompts side by side; one prompt is a batch of one.

    Attributes:
        ids: vocabulary ids, filled up on the right.
        lengths: how many of them are real.
        starts: first token of each query; it and all after it are the query's tokens.
    """

    ids: Int[Tensor, "batch n"]
    lengths: Int[Tensor, " batch"]
    starts: Int[Tensor, " batch"]

    @classmethod
    def of(cls, rows: Sequence[Int[Tensor, "*_"]], starts: Sequence[int], device: torch.device) -> PaddedTokens:
        """Place token ids, (n,) of each prompt, side by side, filled up with each one's last id.

        Raises:
            UserError: a prompt without tokens, or a query that starts outside its prompt.
        """
        for row, start in zip(rows, starts, strict=True):
            if row.ndim != 1:
                raise UserError(f"token ids of one prompt are needed, (n,); their shape is {tuple(row.shape)}.")
            if len(row) == 0:
                raise UserError("the prompt has no tokens.")
            if not 0 <= start < len(row):
                raise UserError(f"the query starts at token {start} of a prompt of {len(row)} tokens.")
        lengths = torch.tensor([len(row) for row in rows])
        longest = int(lengths.max())
        # A padding token of the vocabulary would have transformers warn of a mask that is not needed here.
        ids = torch.stack([torch.cat([row, row[-1:].expand(longest - len(row))]) for row in rows])
        return cls(ids.to(device), lengths.to(device), torch.tensor(starts, device=device))

    @property
    def real(self) -> Bool[Tensor, "batch n"]:
        """False for what was filled up."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]

    @property
    def places(self) -> Int[Tensor, "batch n"]:
        """The position of every token."""
        return torch.arange(self.ids.shape[1], device=self.ids.device).expand(len(self.ids), -1)

    @property
    def query_places(self) -> Int[Tensor, "batch n_query"]:
        """The positions of every query's tokens, the longest query's number of them."""
        longest = int((self.lengths - self.starts).max())
        places = self.starts[:, None] + torch.arange(longest, device=self.ids.device)
        return places.clamp_max(self.ids.shape[1] - 1)

    def check(self, lens_model: LensModel) -> None:
        """Refuse what the model cannot read.

        Raises:
            UserError: an encoder; a prompt that is too long; ids outside the vocabulary.
        """
        lens_model.require_causal()
        n, limit = self.ids.shape[1], lens_model.context_length
        if limit is not None and n > limit:
            raise UserError(f"the prompt has {n} tokens; the context of {lens_model.name} holds {limit}.")
        if int(self.ids.min()) < 0 or int(self.ids.max()) >= lens_model.n_vocabulary:
            raise UserError(f"token ids must lie in [0, {lens_model.n_vocabulary}); they reach {int(self.ids.max())}.")


def take(x: Tensor, positions: Int[Tensor, "batch n_positions"]) -> Tensor:
    """x[b, positions[b]] for every prompt b: (batch, n, ...) -> (batch, n_positions, ...)."""
    positions = positions.to(x.device)
    return x[torch.arange(len(x), device=x.device)[:, None], positions]


@contextmanager
def unembedding_only(lens_model: LensModel, positions: Int[Tensor, "batch n_positions"]) -> Iterator[None]:
    """Compute inside the block only the logits of these positions of each prompt."""
    head = lens_model.anatomy.head
    assert head is not None

    handle = head.register_forward_pre_hook(lambda module, args: (take(args[0], positions), *args[1:]))
    try:
        yield
    finally:
        handle.remove()
