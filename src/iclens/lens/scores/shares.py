"""Shares: the change of the margin from no demonstration to all of them, divided among them along one path of weights.

    shares_i = ∫₀¹ ∂M/∂w_i (t, …, t) dt,        Σ_i shares_i = M(1, …, 1) − M(0, …, 0)

The integral is a Gauss–Legendre sum over a few weights t, and how far the shares are from what they should sum to is
printed: `gap`. A margin that is saturated, as that of a model that is sure of its answer, changes at weights near zero
alone; nodes are then spread over log t.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.prompt.tokens import by_source
from iclens.lens.read.padded import OfPrompts
from iclens.lens.scores.influence import Influence

COMPLETE = 0.05
"""A gap up to which shares count as complete."""

MOST_NODES = 16
"""Nodes of the finest schedule."""

SMALLEST = -12.0
"""log t of the smallest weight: e⁻¹² of an example is none."""

_SATURATED = 0.9
"""The share of the whole change that half the weight keeps where a margin counts as saturated."""


@dataclass(frozen=True)
class Shares(OfPrompts):
    """Each prompt's change of the margin, divided among its tokens.

    Attributes:
        by_head: of each token through each head of each layer, nats; zero for tokens without a weight.
        margin: M(1, …, 1).
        without: M(0, …, 0).
        gap: |Σ shares − (margin − without)| / max(|margin − without|, largest |share| of a demonstration).
        n_nodes: how many weights the integral was taken at.
        logarithmic: whether they were spread over log t.
    """

    by_head: Float[Tensor, "*batch n_layers n_heads n"]
    margin: Float[Tensor, "*batch"]
    without: Float[Tensor, "*batch"]
    gap: Float[Tensor, "*batch"]
    n_nodes: Int[Tensor, "*batch"]
    logarithmic: Float[Tensor, "*batch"]

    @property
    def by_token(self) -> Float[Tensor, "*batch n"]:
        """Shares of tokens, summed over layers and heads, in float64."""
        return self.by_head.double().sum((-3, -2))


@dataclass(frozen=True)
class Nodes:
    """Weights t at which the influence is taken, and what each counts: Σ_k counts_k ∂M/∂log w(t_k).

    Attributes:
        weights: t of every node.
        counts: dt / t of a linear schedule, d log t of a logarithmic one.
        logarithmic: which of both.
    """

    weights: tuple[float, ...]
    counts: tuple[float, ...]
    logarithmic: bool

    @classmethod
    def of(cls, n: int, *, logarithmic: bool) -> Nodes:
        """Gauss–Legendre nodes over t from 0 to 1, or over log t from `SMALLEST` to 0."""
        places, counts = np.polynomial.legendre.leggauss(n)
        if logarithmic:
            return cls(tuple(np.exp(SMALLEST * (1 - places) / 2)), tuple(-SMALLEST / 2 * counts), True)
        weights = (1 + places) / 2
        return cls(tuple(weights), tuple(counts / 2 / weights), False)


def shares(
    take: Callable[[float, Tensor], Influence],
    margin: Float[Tensor, " batch"],
    without: Float[Tensor, " batch"],
    groups: Int[Tensor, "batch n"],
    n_nodes: int | None = None,
) -> Shares:
    """Divide every prompt's change of the margin among its tokens.

    Without `n_nodes` the schedule is chosen by one rule for every model: the middle first; where the shares do not sum
    to the change within `COMPLETE`, 2 and 4 nodes, or, where half the weight already keeps nine tenths of the change, 4
    and more over log t; up to `MOST_NODES`. Each prompt keeps the schedule with the smallest gap.

    Args:
        take: the influence of some prompts, by their numbers, when all demonstrations have one weight.
        margin: M(1, …, 1).
        without: M(0, …, 0).
        groups: every token's demonstration, −1 for none.
        n_nodes: as many nodes over log t; 1 for the middle alone.

    Raises:
        UserError: fewer than one node.
    """
    if n_nodes is not None and n_nodes < 1:
        raise UserError(f"nodes is {n_nodes}: take at least 1.")
    best: Shares | None = None
    open_ = torch.arange(len(margin))
    saturated = torch.zeros(len(margin), dtype=torch.bool)
    for nodes, of_saturated in _schedules(n_nodes):
        chosen = open_ if of_saturated is None else open_[saturated[open_] == of_saturated]
        if not len(chosen):
            continue
        taken = [take(weight, chosen) for weight in nodes.weights]
        summed = torch.stack(
            [count * one.by_head.double() for count, one in zip(nodes.counts, taken, strict=True)]
        ).sum(0)
        found = _judged(summed, margin[chosen], without[chosen], groups[chosen], nodes)
        if best is None:
            best = found
            change = margin - without
            saturated = (taken[0].margin - without) * change.sign() >= _SATURATED * change.abs()
        else:
            better = found.gap < best.gap[chosen]
            for name, part in vars(best).items():
                part[chosen[better]] = getattr(found, name)[better]
        open_ = (best.gap > COMPLETE).nonzero().flatten()
    assert best is not None
    return best


def _schedules(n_nodes: int | None) -> Iterator[tuple[Nodes, bool | None]]:
    """Schedules one after another, each for all prompts, or only for saturated or other ones."""
    if n_nodes is not None:
        yield Nodes.of(n_nodes, logarithmic=n_nodes > 1), None
        return
    yield Nodes.of(1, logarithmic=False), None
    for n in (2, 4):
        yield Nodes.of(n, logarithmic=False), False
    n = 4
    while n <= MOST_NODES:
        yield Nodes.of(n, logarithmic=True), None if n > 4 else True
        n *= 2


def _judged(by_head: Tensor, margin: Tensor, without: Tensor, groups: Tensor, nodes: Nodes) -> Shares:
    change = margin - without
    by_group = by_source(by_head.sum((1, 2)), groups, int(groups.max()) + 1)[:, :-1]
    largest = torch.stack([change.abs(), by_group.abs().amax(-1)]).amax(0)
    gap = (by_group.sum(-1) - change).abs() / largest.clamp_min(torch.finfo(torch.float64).tiny)
    count = torch.full((len(margin),), len(nodes.weights))
    return Shares(by_head, margin, without, gap, count, torch.full((len(margin),), float(nodes.logarithmic)))
