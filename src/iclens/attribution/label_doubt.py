"""Label doubt: the model's odds for a demonstration's own label against the others', beside those of its namesakes."""

from __future__ import annotations

import torch
from torch import Tensor

from iclens.attribution.label_surprise import N_ORDERS
from iclens.attribution.shared.label_places import expected, label_places, orders, reordered
from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted


@ATTRIBUTIONS.register("label_doubt")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """log p(own label)/p(other labels) by their first tokens, minus its mean over demonstrations of the same label.

    Averaged over 4 random orders and their reverses. The odds leave out what the model expects beside the labels, the
    mean leaves out that it prefers one label whatever the input. A label that stands alone is not centred.
    """

    def values() -> Tensor:
        n = lens.n_demonstrations
        chosen = orders(generator, n, N_ORDERS)
        odds, first = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.long)
        prompts = [reordered(lens.prompt, order) for order in chosen]
        for order, (tokenized, log_p) in zip(chosen, expected(lens, prompts), strict=True):
            own = tokenized.input_ids[[place[0] for place in label_places(tokenized)]].cpu()
            known = own.unique()
            for i, index, rows in zip(order, own, log_p, strict=True):
                first[i] = index
                others = known[known != index]
                odds[i] += rows[0, index] - (rows[0, others].logsumexp(0) if len(others) else 0.0)
        odds /= len(prompts)
        alike = (first[:, None] == first).double()
        counts = alike.sum(1)
        return torch.where(counts > 1, odds - alike @ odds / counts, odds)

    return counted(lens, values)
