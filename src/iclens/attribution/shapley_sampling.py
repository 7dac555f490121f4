"""Shapley values from random orders, with demonstrations that are absent really deleted."""

from __future__ import annotations

import torch
from torch import Tensor

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted

N_PERMUTATIONS = 5


@ATTRIBUTIONS.register("shapley_sampling")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """Mean over 5 random orders of the change of margin when the demonstration joins those before it.

    The scores sum to margin(all) − margin(none) exactly. The empty prompt and the full one are shared, so that
    5 (n − 1) + 2 prompts run, and what they begin with alike is read once.

    Source: Castro, Gómez & Tejada 2009, "Polynomial calculation of the Shapley value based on sampling".
    """

    def values() -> Tensor:
        n = lens.n_demonstrations
        orders = torch.rand(N_PERMUTATIONS, n, generator=generator).argsort(-1)
        # Row s of an order holds the s first of it: s = 1 … n − 1, since the ends are the same for all orders.
        rank = orders.argsort(-1)
        prefixes = rank[:, None, :] < torch.arange(1, n)[None, :, None]
        keep = torch.cat(
            [torch.zeros(1, n, dtype=torch.bool), torch.ones(1, n, dtype=torch.bool), prefixes.reshape(-1, n)]
        )
        margins = lens.deletions(keep).margins.double()
        inner = margins[2:].reshape(N_PERMUTATIONS, n - 1)
        ends = margins[:2].expand(N_PERMUTATIONS, 2)
        gains = torch.cat([ends[:, :1], inner, ends[:, 1:]], dim=-1).diff(dim=-1)
        return gains.gather(1, rank).mean(0)

    return counted(lens, values)
