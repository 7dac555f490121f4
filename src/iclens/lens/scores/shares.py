"""Shares: the change of the margin from no demonstration to all of them, divided among them along one path of weights.

    shares_i = ∫₀¹ ∂M/∂w_i (t, …, t) dt,        Σ_i shares_i = M(1, …, 1) − M(0, …, 0)

One pass gives M(t) along with its derivatives, so the error of a quadrature is known in every interval between two
weights: M(b) − M(a) minus the sum of what the demonstrations get there. The interval with the largest error is cut
until the errors are small together. So weights gather where the margin changes: for a model that is sure of its answer
near zero, for others anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.prompt.tokens import by_source
from iclens.lens.read.padded import OfPrompts
from iclens.lens.scores.influence import HALF, Influence

COMPLETE = 0.05
"""The errors of all intervals together at which the cutting ends, and a gap up to which shares count as complete."""

MOST_NODES = 16
"""Weights that the influence is taken at, at most."""

_DROP = 4.0
"""The smallest weight so far over the next smaller one."""


@dataclass(frozen=True)
class Shares(OfPrompts):
    """Each prompt's change of the margin, divided among its tokens.

    Attributes:
        by_head: of each token through each head of each layer, nats; zero for tokens without a weight.
        margin: M(1, …, 1).
        without: M(0, …, 0).
        gap: |Σ shares − (margin − without)| / max(|margin − without|, largest |share| of a demonstration).
        weights: where the influence was taken, ascending; NaN after a prompt's last.
        residual: the largest of these influences.
    """

    by_head: Float[Tensor, "*batch n_layers n_heads n"]
    margin: Float[Tensor, "*batch"]
    without: Float[Tensor, "*batch"]
    gap: Float[Tensor, "*batch"]
    weights: Float[Tensor, "*batch most"]
    residual: Float[Tensor, "*batch"]

    @property
    def by_token(self) -> Float[Tensor, "*batch n"]:
        """Shares of tokens, summed over layers and heads, in float64."""
        return self.by_head.double().sum((-3, -2))

    @property
    def n_nodes(self) -> Int[Tensor, "*batch"]:
        """How many weights the influence was taken at."""
        return (~self.weights.isnan()).sum(-1)


@dataclass
class _Integral:
    """One prompt's integral: what was found at each weight t so far, from the smallest on."""

    margin: float
    without: float
    by_head: dict[float, Tensor] = field(default_factory=dict)
    by_group: dict[float, Tensor] = field(default_factory=dict)
    margins: dict[float, float] = field(default_factory=dict)
    residual: float = 0.0

    @property
    def nodes(self) -> list[float]:
        return sorted(self.margins)

    @property
    def ends(self) -> list[float]:
        """Ends of the intervals."""
        nodes = self.nodes
        return [0.0, *nodes, *([] if nodes[-1] == 1.0 else [1.0])]

    def counts(self) -> Float[Tensor, "n_intervals n_nodes"]:
        """Return what each node counts in each interval: ∫ ∂M/∂log w d log t = Σ_k counts_k ∂M/∂log w(t_k)."""
        nodes, ends = torch.tensor(self.nodes, dtype=torch.float64), self.ends
        return torch.stack([_counts(nodes, a, b) for a, b in pairwise(ends)])

    def judged(self) -> tuple[Float[Tensor, " n_intervals"], float]:
        """Return the error of every interval, and what errors are measured by."""
        by_group = self.counts() @ torch.stack([self.by_group[t] for t in self.nodes])
        known = {0.0: self.without, 1.0: self.margin} | self.margins
        margins = torch.tensor([known[t] for t in self.ends], dtype=torch.float64)
        largest = max(abs(self.margin - self.without), float(by_group.sum(0).abs().max()))
        return margins.diff() - by_group.sum(1), max(largest, torch.finfo(torch.float64).tiny)

    def following(self) -> list[float]:
        """Return the next weights, that of the largest error first; none when the errors are small together.

        One in the worst interval, and one in every other whose error alone is too large: it has to be cut anyway.
        """
        if not self.margins:
            return [HALF]
        errors, largest = self.judged()
        sizes = errors.abs()
        if float(sizes.sum()) <= COMPLETE * largest:
            return []
        ranked = sizes.argsort(descending=True, stable=True).tolist()
        return [self._cut(i) for i in ranked if i == ranked[0] or float(sizes[i]) > COMPLETE * largest]

    def _cut(self, interval: int) -> float:
        a, b = self.ends[interval : interval + 2]
        if a == 0.0:
            return b / _DROP
        return b if b not in self.margins else (a * b) ** 0.5


def shares(
    take: Callable[[Float[Tensor, " some"], Int[Tensor, " some"]], Influence],
    margin: Float[Tensor, " batch"],
    without: Float[Tensor, " batch"],
    groups: Int[Tensor, "batch n"],
    nodes: int = MOST_NODES,
) -> Shares:
    """Divide every prompt's change of the margin among its tokens.

    Each prompt has its own weights, by one rule for every model: half first; then, in the interval with the largest
    error and in all whose error alone is too large, its upper end 1, a quarter of the smallest weight, or the geometric
    mean of its ends; until the errors sum to `COMPLETE` of the change. The weights of one step, of all prompts, go
    through the model together.

    Args:
        take: the influence on some prompts, by their numbers, when all demonstrations of each have one weight.
        margin: M(1, …, 1).
        without: M(0, …, 0).
        groups: every token's demonstration, −1 for none.
        nodes: weights of each prompt, at most.

    Raises:
        UserError: fewer than one node.
    """
    if nodes < 1:
        raise UserError(f"nodes is {nodes}: take at least 1.")
    n_groups = int(groups.max()) + 1
    integrals = [_Integral(*one) for one in zip(margin.double().tolist(), without.double().tolist(), strict=True)]
    while True:
        asked = [(b, t) for b, one in enumerate(integrals) for t in one.following()[: max(0, nodes - len(one.margins))]]
        if not asked:
            break
        chosen = torch.tensor([b for b, _ in asked])
        found = take(torch.tensor([t for _, t in asked], dtype=torch.float64), chosen)
        by_group = by_source(found.by_head.double().sum((1, 2)), groups[chosen], n_groups)[:, :-1]
        for i, (b, t) in enumerate(asked):
            one = integrals[b]
            one.by_head[t], one.by_group[t], one.margins[t] = found.by_head[i], by_group[i], float(found.margin[i])
            one.residual = max(one.residual, float(found.residual[i]))
    return _together(integrals, margin, without, nodes)


def _together(integrals: list[_Integral], margin: Tensor, without: Tensor, most: int) -> Shares:
    by_head, gaps = [], []
    weights = torch.full((len(integrals), most), torch.nan, dtype=torch.float64)
    for own, one in zip(weights, integrals, strict=True):
        nodes = one.nodes
        own[: len(nodes)] = torch.tensor(nodes)
        counts = one.counts().sum(0).tolist()
        by_head.append(torch.stack([n * one.by_head[t].double() for n, t in zip(counts, nodes, strict=True)]).sum(0))
        errors, largest = one.judged()
        gaps.append(float(errors.sum().abs()) / largest)
    found, residuals = torch.tensor(gaps, dtype=torch.float64), [one.residual for one in integrals]
    return Shares(torch.stack(by_head), margin, without, found, weights, torch.tensor(residuals, dtype=torch.float64))


def _counts(nodes: Float[Tensor, " n_nodes"], a: float, b: float) -> Float[Tensor, " n_nodes"]:
    """Apply the trapezoidal rule in log t between two nodes; hold ∂M/∂t beyond the first and the last one."""
    counts = torch.zeros_like(nodes)
    inside = (nodes >= a) & (nodes <= b)
    if int(inside.sum()) == 2:
        counts[inside] = math.log(b / a) / 2
    else:
        counts[inside] = (b - a) / nodes[inside]
    return counts
