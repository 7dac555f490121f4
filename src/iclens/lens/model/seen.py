"""Which tokens may attend to which, in the three forms that reach a layer; rows are formed when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from iclens.huggingface import MaskRecipe


@dataclass(frozen=True)
class Plain:
    """Every earlier token and its own in a causal layer, every token in an encoder's.

    There are `n_key` tokens, of which the last `n_query` have queries; rows are formed on `device`.
    """

    causal: bool
    n_query: int
    n_key: int
    device: torch.device

    def rows(self, first: int, last: int) -> Bool[Tensor, "_ 1 rows n_key"]:
        """Form the rows of the queries first … last − 1."""
        return self.rows_at(torch.arange(first, last, device=self.device)[None])[:, None]

    def rows_at(self, positions: Int[Tensor, "_ rows"]) -> Bool[Tensor, "_ rows n_key"]:
        """Form the rows of some queries: others in each prompt, or the same in all (a leading 1)."""
        own = positions.to(self.device)[..., None] + (self.n_key - self.n_query)
        return torch.arange(self.n_key, device=self.device) <= (
            own if self.causal else torch.full_like(own, self.n_key)
        )


@dataclass(frozen=True, eq=False)
class Given:
    """A mask that the caller of the model made: True = may attend; the prompts may share one."""

    mask: Bool[Tensor, "_ 1 n_query n_key"]

    def rows(self, first: int, last: int) -> Bool[Tensor, "_ 1 rows n_key"]:
        """Cut out the rows of the queries first … last − 1."""
        return self.mask[:, :, first:last]

    def rows_at(self, positions: Int[Tensor, "_ rows"]) -> Bool[Tensor, "_ rows n_key"]:
        """Pick the rows of some queries: others in each prompt, or the same in all (a leading 1)."""
        n_prompts = max(len(positions), len(self.mask))
        prompts = torch.arange(n_prompts, device=self.mask.device)[:, None]
        return self.mask[:, 0].expand(n_prompts, -1, -1)[prompts, positions.to(self.mask.device)]


Seen = Plain | Given | MaskRecipe
"""All have `rows(first, last)` and `rows_at(positions)`; a recipe is of windows, chunks and padding."""
