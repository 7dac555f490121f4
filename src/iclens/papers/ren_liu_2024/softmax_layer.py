"""The synthetic softmax layer of the Ren & Liu recipes: tokens of a linear task, and random projections."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.dual.model import DualModel


class Layer(NamedTuple):
    """Queries, keys and values of all tokens, (N + 1, d); the first N are demonstrations, the last is the query."""

    q: Float[Tensor, "n_token d"]
    k: Float[Tensor, "n_token d"]
    v: Float[Tensor, "n_token d_v"]

    def dual(self, logit_scale: float = 1.0, queries: slice = slice(-1, None)) -> DualModel:
        """Return the dual model at some queries, the last token's by default.

        Args:
            logit_scale: factor of the scores beside d^(−1/2).
            queries: which tokens ask.
        """
        d = self.q.shape[-1]
        return DualModel.from_attention(
            self.q[queries], self.k, self.v, self.k.shape[-2] - 1, scale=logit_scale * d**-0.5
        )


def random_layer(generator: torch.Generator, n_demonstrations: int, d: int, d_v: int | None = None) -> Layer:
    """One softmax layer on a linear task, in float64.

    Tokens are (x, y) with x ~ U(−1, 1)^(d−1), y = w·x and w ~ N(0, I); the query's y is 0. The entries of W_Q, W_K and
    W_V are N(0, 1/d), so that scores of width d are of order one.

    Args:
        generator: of everything.
        n_demonstrations: N.
        d: width of the tokens, the label among them.
        d_v: width of the values; d when None.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = 2 * torch.rand(n_demonstrations + 1, d - 1, generator=generator, dtype=torch.float64) - 1
    y = x @ normal(d - 1, 1)
    y[-1] = 0
    tokens = torch.cat([x, y], -1)
    W_Q, W_K = normal(d, d) / d**0.5, normal(d, d) / d**0.5
    W_V = normal(d if d_v is None else d_v, d) / d**0.5
    return Layer(tokens @ W_Q.mT, tokens @ W_K.mT, tokens @ W_V.mT)
