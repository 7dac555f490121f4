"""The labels of the nearest points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.points import checked_points
from iclens.estimators.prefix_loop import by_prefix
from iclens.tasks.options import require_counts, require_one_of
from iclens.tasks.shapes import Inputs, Labels

WEIGHTS = ("uniform", "distance")

_FEW = 8
"""Up to this number of neighbours, taking the nearest again and again is quicker than sorting."""


_BLOCK = 24
"""Queries at a time: they need the distances to the points before the last of them, not to all."""


@ESTIMATORS.register("nearest-neighbours")
@dataclass(frozen=True)
class NearestNeighbours(Estimator):
    """ŷ = Σ_i a_i y_i over the nearest points by Euclidean distance; all of them while they are fewer than asked for.

    Of points at equal distance the earlier counts as nearer. All prefixes: the distances of all pairs, O(n² (d + k)).

    Source: Garg et al. 2022 (three neighbours, equal weights). The options are those of scikit-learn's
    `KNeighborsRegressor`.

    Attributes:
        n_neighbors: k, at least 1.
        weights: `uniform`, or `distance` for a_i ∝ 1/distance; points at distance 0, if any, then share all the weight.

    Raises:
        UserError: an option out of its range.
    """

    n_neighbors: int = 3
    weights: str = "uniform"

    def __post_init__(self) -> None:
        require_counts(n_neighbors=self.n_neighbors)
        require_one_of("weights", self.weights, WEIGHTS)

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:  # noqa: D102
        inputs, labels = checked_points(inputs, labels)
        n = inputs.shape[-2]
        place, k = torch.arange(n, device=inputs.device), min(self.n_neighbors, n)
        orders, near = [], []
        for first in range(0, n, _BLOCK):
            queries, before = place[first : first + _BLOCK, None], place[: max(1, min(first + _BLOCK, n) - 1)]
            distances = _distances(inputs[..., first : first + _BLOCK, :], inputs[..., : len(before), :])
            order = _nearest(distances.detach().masked_fill(before >= queries, torch.inf), min(k, len(before)))
            order = pad(order, (0, k - order.shape[-1]))
            orders.append(order)
            if self.weights == "distance":
                near.append(distances.gather(-1, order))
        # Point i has i points before it, and they come first.
        known = place[:k] < place.unsqueeze(-1)
        return self._average(labels, torch.cat(orders, -2), torch.cat(near, -2) if near else None, known)

    def prefixes_naive(self, inputs: Inputs, labels: Labels) -> Labels:
        """Return the same, sorting the distances of one prefix after another."""
        inputs, labels = checked_points(inputs, labels)

        def answer(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
            distances = _distances(query, xs)
            order = distances.argsort(dim=-1, stable=True)[..., : self.n_neighbors]
            return self._average(ys, order, distances.gather(-1, order), torch.ones_like(order, dtype=torch.bool))

        return by_prefix(answer, inputs, labels)

    def _average(self, labels: Tensor, order: Tensor, near: Tensor | None, known: Tensor) -> Tensor:
        """Weighted means of the labels at `order`, (..., n_queries, k), as far as they are known; zeros without any.

        `near`, the distances at `order`, is needed for weights by distance alone.
        """
        of_each = order.flatten(-2).unsqueeze(-1).expand(*order.shape[:-2], -1, labels.shape[-1])
        values = labels.gather(-2, of_each).unflatten(-2, order.shape[-2:])
        weights = known.to(labels.dtype)
        if self.weights == "distance" and near is not None:
            same = known & (near == 0)
            inverse = torch.where(known, 1 / torch.where(near > 0, near, 1.0), 0.0)
            weights = torch.where(same.any(-1, keepdim=True), same.to(labels.dtype), inverse)
        total = weights.sum(-1, keepdim=True)
        return (weights.unsqueeze(-1) * values).sum(-2) / torch.where(total > 0, total, 1.0)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # From differences, not products: points that are equal must be at distance 0, and at equal distances.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _nearest(distances: Tensor, k: int) -> Tensor:
    """Indices of each row's k smallest entries, smallest first, the earlier of equal ones first."""
    if k > _FEW:
        return distances.argsort(dim=-1, stable=True)[..., :k]
    places = []
    for _ in range(k):
        places.append(distances.min(-1, keepdim=True).indices)
        distances = distances.scatter_(-1, places[-1], torch.inf)
    return torch.cat(places, -1)
