"""What each demonstration of a pool does to the answers of many queries: its mean influence, with an interval.

A mini-batch of queries stands behind demonstrations in a random order, and the sum of the margins is differentiated
with respect to the training weights of all demonstrations at once (`shared_influence`). Each mini-batch has an order of
its own, and two random weight vectors that are mirror images of each other: the mean of the two derivatives is the
effect at middling weights, and their difference tells how the effects depend on each other (`scores.pairs`), for no
pass more. A pool that does not fit into one prompt is divided among several, anew for every mini-batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.lens import Prompt
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.tokens import tokenize
from iclens.lens.read.margin import Readout
from iclens.lens.scores.pairs import Pairs, fit, weight_vectors
from iclens.lens.scores.shared_influence import shared_influence
from iclens.selection.elsewhere import pieces
from iclens.selection.evaluator import Evaluator, Order

CERTAIN = 0.3
"""The mean log-loss below which a model counts as certain of its answers, nats: they are won at smaller weights."""

SCALES = (1.0, 1 / 16)
"""Scales of the weights where answers are certain; else the first alone. The mean of ∂M/∂log w over scales that are
equally far apart grows with the demonstration's part of the whole change from none to all (Aumann and Shapley)."""


@dataclass(frozen=True)
class Effects:
    """What demonstrations do to the mean margin of mini-batches of queries, in nats, per unit of weight.

    Attributes:
        samples: a row for each mini-batch.
        pairs: how the effects depend on each other; None where the pool does not fit into one prompt.
        scales: the weights that count as one: 1, or smaller ones too, over which the effects are averaged.
    """

    samples: Float[Tensor, "n_batches n_pool"]
    pairs: Pairs | None
    scales: tuple[float, ...]

    @property
    def mean(self) -> Float[Tensor, " n_pool"]:
        """The mean effect of each demonstration."""
        return self.samples.mean(0)

    @property
    def error(self) -> Float[Tensor, " n_pool"]:
        """Its standard error over the mini-batches."""
        return self.samples.std(0) / len(self.samples) ** 0.5


def measure_effects(
    evaluator: Evaluator,
    n_batches: Callable[[int], int],
    divided: Callable[[Sequence[int]], list[Order]],
    generator: torch.Generator,
) -> Effects:
    """Measure the effect of every demonstration of an evaluator's pool on its queries.

    Args:
        evaluator: model, pool and queries.
        n_batches: says into how many mini-batches the queries are divided, given the number of scales; 0 asks for fewer
            scales.
        divided: divides an order of the pool into prompts that fit.
        generator: draws orders and weights.
    """
    n, every = len(evaluator.shots), list(evaluator.every)
    first = divided(range(n))
    scales = _scales(evaluator, first[0])
    while not (count := n_batches(len(scales))) and len(scales) > 1:
        scales = scales[:-1]
    weights = weight_vectors(1, n, generator, 2 * max(2, count))[: 2 * count, 0]
    gradients, margins = torch.zeros(2 * count, n, dtype=torch.float64), torch.zeros(2 * count, dtype=torch.float64)
    alone = len(first) == 1
    asked: list[tuple[int, float, Order, Sequence[int]]] = []
    for b in range(count):
        # Neighbours have different labels, so that every mini-batch holds all alike.
        some = every[len(every) * b // count : len(every) * (b + 1) // count]
        prompts = divided(torch.randperm(n, generator=generator).tolist())
        alone &= len(prompts) == 1
        each = product((2 * b, 2 * b + 1), scales, prompts)
        asked += [(place, scale, prompt, some) for place, scale, prompt in each]
    read = _derivatives(evaluator, [(prompt, some, weights[place] * scale) for place, scale, prompt, some in asked])
    n_asked = Counter(place for place, *_ in asked)
    for (place, scale, prompt, _), (found, margin) in zip(asked, read, strict=True):
        gradients[place, list(prompt)] += found * scale / len(scales)
        margins[place] += margin / n_asked[place]
    samples = gradients.unflatten(0, (count, 2)).mean(1)
    if count < 2 or n < 2 or not alone:
        return Effects(samples, None, scales)
    # Queries and orders differ between mini-batches, so that only differences within one tell of the weights.
    centred = gradients - samples.repeat_interleave(2, 0) + samples.mean(0)
    none = torch.zeros(0, n, dtype=torch.bool), torch.zeros(0, dtype=torch.float64)
    return Effects(samples, fit(weights, centred, margins, *none), scales)


def _scales(evaluator: Evaluator, prompt: Order) -> tuple[float, ...]:
    """The scales of the weights at which demonstrations matter."""
    log_loss = -float(evaluator.said([prompt]).log_p.mean())
    return SCALES if log_loss < CERTAIN else SCALES[:1]


def _derivatives(
    evaluator: Evaluator, asked: Sequence[tuple[Order, Sequence[int], Tensor]]
) -> list[tuple[Float[Tensor, " n_shots"], float]]:
    """∂M/∂w_i of the demonstrations of prompts, M the mean margin of some queries, and M; weights are of the pool."""
    written = [
        [
            evaluator.writing.prompt([evaluator.shots[i] for i in prompt], evaluator.queries[q].example.input)
            for q in queries
        ]
        for prompt, queries, _ in asked
    ]
    own = [weights[list(prompt)].double() for prompt, _, weights in asked]

    def compute(missing: Sequence[int]) -> Iterator[tuple[int, tuple[list[list[float]], int]]]:
        readouts = [[evaluator.queries[q].readout for q in queries] for _, queries, _ in asked]
        calls = [(written[i], readouts[i], own[i], evaluator.most_tokens) for i in missing]
        return pieces(evaluator.lens_model, evaluator.elsewhere, influence_of, calls)

    whats = [["effects", prompt, list(queries), w.tolist()] for (prompt, queries, _), w in zip(asked, own, strict=True)]
    found = evaluator.ledger.all_numbers(whats, compute)
    return [(torch.tensor(one, dtype=torch.float64), sum(margins) / len(margins)) for one, margins in found]


def influence_of(
    lens_model: LensModel, written: Sequence[Prompt], readouts: Sequence[Readout], weights: Tensor, most_tokens: int
) -> tuple[list[list[float]], int]:
    """Read the mean of ∂M/∂w_i over queries behind the same demonstrations, and every margin, as plain numbers.

    Args:
        lens_model: the model.
        written: the demonstrations with each query.
        readouts: what is read of each query.
        weights: of the demonstrations.
        most_tokens: how many go through the model at once.

    Returns:
        The derivatives and the margins, and how many tokens were read, forth and back.
    """
    read = [tokenize(one, lens_model.tokenizer, lens_model.context_length) for one in written]
    found = shared_influence(lens_model, list(zip(read, readouts, strict=True)), weights, most_tokens)
    mean = found.by_demonstration / len(written)
    return [mean.tolist(), found.margins.tolist()], 2 * found.tokens
