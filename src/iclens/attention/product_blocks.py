"""Products of queries and keys, a block of rows at a time in one place of memory."""

from __future__ import annotations

import torch
from torch import Tensor

from iclens.attention.transformed import is_transformed


class ProductBlocks:
    """q kᵀ for a few queries at a time, without the whole matrix.

    A block is valid until the next one is formed, and may be overwritten. Blocks made afresh would each be freed before
    the next, and still memory would grow with the square of the tokens: what is allocated between two blocks keeps the
    C library from using the same place again.

    Args:
        q: (..., n_query, d).
        k: (..., n_key, d); leading axes broadcast with those of `q`.
    """

    def __init__(self, q: Tensor, k: Tensor) -> None:
        self.leading = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
        # Neither a transformation of the program nor one of its tensors can write into memory that is given.
        self._in_place = not (torch.compiler.is_compiling() or is_transformed(q, k))
        if self._in_place:
            q, k = (x.detach().expand(*self.leading, *x.shape[-2:]).reshape(-1, *x.shape[-2:]) for x in (q, k))
        self._q, self._k = q, k
        self._memory = q.new_empty(0)

    @property
    def n_batch(self) -> int:
        """Scores of one query and one key: batch times heads."""
        return self.leading.numel()

    def __call__(self, start: int, stop: int, n_key: int) -> Tensor:
        """Products of queries start…stop with the first `n_key` keys, (..., stop − start, n_key); no gradient."""
        q, k = self._q[..., start:stop, :], self._k[..., :n_key, :].mT
        if not self._in_place:
            return q.detach() @ k.detach()
        n_row, size = stop - start, self.n_batch * (stop - start)
        if self._memory.numel() < size * n_key:
            # At once for the longest block of so many rows: under causality they grow.
            self._memory = self._q.new_empty(size * self._k.shape[-2])
        out = self._memory[: size * n_key].view(self.n_batch, n_row, n_key)
        with torch.no_grad():
            return torch.bmm(q, k, out=out).view(*self.leading, n_row, n_key)
