"""Label surprise: how little the model expects a demonstration's own label; the baseline for finding wrong labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.attribution.shared.label_places import expected, label_places, orders, reordered
from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted

N_ORDERS = 8


def surprise(lens: Lens, some_orders: Sequence[Sequence[int]]) -> Float[Tensor, " n_demonstrations"]:
    """log p of each demonstration's label given all before it, the mean over some orders of the demonstrations."""
    found = torch.zeros(lens.n_demonstrations, dtype=torch.float64)
    prompts = [reordered(lens.prompt, order) for order in some_orders]
    for order, (tokenized, log_p) in zip(some_orders, expected(lens, prompts), strict=True):
        for i, place, own in zip(order, label_places(tokenized), log_p, strict=True):
            found[i] += own.gather(1, tokenized.input_ids[list(place), None].cpu()).sum()
    return found / len(prompts)


@ATTRIBUTIONS.register("label_surprise")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """log p(label | what stands before it): surprising labels come last."""
    return counted(lens, lambda: surprise(lens, [range(lens.n_demonstrations)]))


@ATTRIBUTIONS.register("label_surprise_orders")
def score_of_orders(lens: Lens, generator: torch.Generator) -> Scores:
    """The same averaged over 4 random orders of the demonstrations and their reverses."""
    return counted(lens, lambda: surprise(lens, orders(generator, lens.n_demonstrations, N_ORDERS)))
