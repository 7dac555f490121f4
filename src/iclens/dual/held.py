"""Affine maps held at each query: what a nonlinear part of a layer does once its scales and gates are fixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class HeldMap:
    """One affine map z ↦ z A_t + c_t for every query t.

    A norm or a feed-forward block, at the token where its 1/std or its gates were taken, *equals* such a map. It is no
    linearisation: at that token nothing is left out, and A_t is not the Jacobian.

    Attributes:
        linear: z ↦ z A_t for m vectors of every query, (..., n_query, m, d_in) -> (..., n_query, m, d_out).
        offset: c_t, (..., n_query, d_out).
    """

    linear: Callable[[Tensor], Tensor]
    offset: Float[Tensor, "*batch n_query d_out"]

    @staticmethod
    def identity(z: Float[Tensor, "*batch n_query d"]) -> HeldMap:
        """Return the map that leaves vectors shaped as `z` alone."""
        return HeldMap(lambda vectors: vectors, torch.zeros_like(z))

    def __call__(self, z: Float[Tensor, "*batch n_query d_in"]) -> Float[Tensor, "*out n_query d_out"]:
        """z A_t + c_t, one vector for every query."""
        return self.linear(z.unsqueeze(-2)).squeeze(-2) + self.offset

    def then(self, outer: HeldMap) -> HeldMap:
        """This map followed by `outer`."""
        return HeldMap(lambda vectors: outer.linear(self.linear(vectors)), outer(self.offset))

    def with_residual(self) -> HeldMap:
        """z ↦ z + (z A_t + c_t)."""
        return HeldMap(lambda vectors: vectors + self.linear(vectors), self.offset)

    def matrix(self, d_in: int) -> Float[Tensor, "*batch n_query {d_in} d_out"]:
        """A_t, (..., n_query, d_in, d_out), as a right factor of rows."""
        basis = torch.eye(d_in, dtype=self.offset.dtype, device=self.offset.device)
        return self.linear(basis.expand(*self.offset.shape[:-1], -1, -1))
