"""What each method's scores are by definition: its own are compared with these before it is timed.

A method whose scores depend on chance, or on a penalty, is compared on a margin of which they are known: one that is a
sum over tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from iclens.benchmarks.case import Agreement
from iclens.benchmarks.gpt2_shaped import ShapedPrompt
from iclens.benchmarks.shaped_margin import Shaped
from iclens.lens import LensModel

Make = Callable[[Shaped], Callable[[], Tensor]]
"""From a margin to the call that shares it out among the demonstrations."""

Known = Callable[[Shaped, Make], list[Agreement]]
"""From a margin and a method to how far its scores are from what they are defined to be."""


class Additive(Shaped):
    """A margin that is a sum over the prompt's tokens, 0 for "nothing": each demonstration's share is its own sum."""

    def __init__(self, wrapped: LensModel, prompt: ShapedPrompt) -> None:
        super().__init__(wrapped, prompt)
        generator = torch.Generator().manual_seed(2)
        self.values = torch.randn(wrapped.n_vocabulary, generator=generator)
        self.values[0] = 0.0

    def margins(self, ids: Tensor) -> Tensor:
        """Return the sums of prompts (batch, n)."""
        return self.values[ids].sum(-1)

    def scores(self) -> Tensor:
        """Return the known score of every demonstration."""
        return self.prompt.by_demonstration(self.values[self.prompt.ids])


def ablations(problem: Shaped, make: Make) -> list[Agreement]:
    """Return what replacing each demonstration by "nothing" takes from the margin."""
    ids, groups = problem.prompt.ids, problem.prompt.groups
    replaced = torch.stack([torch.where(groups == i, problem.neutral, ids) for (i,) in problem.sets])
    expected = problem.margins(ids[None]) - problem.margins(replaced)
    return [Agreement.of("ablation of every demonstration", make(problem)(), expected, 1e-3)]


def left_out(problem: Shaped, make: Make) -> list[Agreement]:
    """Return what leaving the text of each demonstration out takes from the margin."""
    ids, groups = problem.prompt.ids, problem.prompt.groups
    without = torch.cat([problem.margins(ids[groups != i][None]) for (i,) in problem.sets])
    expected = problem.margins(ids[None]) - without
    return [Agreement.of("the margin without every demonstration's text", make(problem)(), expected, 1e-3)]


def shapley_values(problem: Shaped, make: Make) -> list[Agreement]:
    """In whatever orders: they sum to what all demonstrations do together, and of a sum they are its parts."""
    both = problem.margins(torch.stack([problem.prompt.ids, problem.neutral]))
    total = make(problem)().sum()[None]
    additive = Additive(problem.lens_model, problem.prompt)
    return [
        Agreement.of("sum of the Shapley values against all demonstrations together", total, both[:1] - both[1:], 1e-3),
        Agreement.of("Shapley values of a sum against its parts", make(additive)(), additive.scores(), 1e-3),
    ]


def lasso_weights(problem: Shaped, make: Make) -> list[Agreement]:
    """Of a sum they are its parts, a little smaller for the penalty."""
    additive = Additive(problem.lens_model, problem.prompt)
    return [Agreement.of("the Lasso's weights of a sum against its parts", make(additive)(), additive.scores(), 2e-2)]


def integrals(n_steps: int) -> Known:
    """Return the integral along the line from "nothing", by a quadrature of our own with the same nodes."""

    def known(problem: Shaped, make: Make) -> list[Agreement]:
        prompt, model = problem.prompt, problem.lens_model.model
        end, start = (model.get_input_embeddings()(ids).detach() for ids in (prompt.ids, problem.neutral))
        shares = torch.zeros(len(prompt.ids), dtype=torch.float64)
        for node, weight in zip(*np.polynomial.legendre.leggauss(n_steps), strict=True):
            point = (start + (node + 1) / 2 * (end - start)).requires_grad_()
            logits = model(inputs_embeds=point[None], use_cache=False, logits_to_keep=1).logits
            (gradient,) = torch.autograd.grad(prompt.margin(logits).sum(), point)
            shares += weight / 2 * (gradient * (end - start)).sum(-1)
        expected = prompt.by_demonstration(shares)
        return [Agreement.of("integrated gradients against a quadrature of our own", make(problem)(), expected, 1e-3)]

    return known
