"""Two-level factorial designs: which demonstrations each of some shortened prompts keeps.

Each run deletes the text of about half of the demonstrations. Over the runs, every demonstration is there in half of
them, and so it is in the runs with any one other; so a demonstration's effect is the mean margin with it minus the mean
without it, and no other's. A Walsh design needs 2^m runs for up to 2^m − 1 demonstrations. Its columns are given out
in their natural order, so that the first 2^j − 1 demonstrations have only 2^j different patterns: runs begin alike, and
what they begin with alike is read once.

With twice as many runs no effect is mixed with an interaction of two others (resolution IV); where passes are left,
this is taken.

Source: Box, Hunter & Hunter 1978, "Statistics for Experimenters", chapter 12; here with prefixes shared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.lens.lens import Lens

WORTH = 1.25
"""Runs of a part of the next design over those of a whole one, from which on the part is taken."""


def walsh(n: int, n_runs: int, *, clear: bool = False) -> Bool[Tensor, "n_runs n"]:
    """Which of n demonstrations each run keeps: columns of the Walsh functions of `n_runs`, a power of two.

    With `clear` the columns are of the upper half, of which no two make a third: main effects are clear of interactions
    of two. Columns come in their natural order, and last of all those without which runs would be there twice. Any two
    agree in half of the runs.
    """
    first, top = (n_runs // 2, n_runs // 2) if clear else (0, n_runs)
    powers = [1 << j for j in range(top.bit_length() - 1)]
    natural = list(range(0 if clear else 1, top))
    chosen = natural[:n]
    while missing := [one for one in powers if one not in chosen]:
        # The last one that is no power of two gives its place to the smallest that lacks.
        chosen.remove(max(one for one in chosen if one not in powers))
        chosen.append(missing[0])
    columns = torch.tensor([first + one for one in chosen])
    bits = torch.arange(n_runs)[:, None] & columns
    parity = torch.zeros_like(bits)
    while bool(bits.any()):
        parity, bits = parity ^ (bits & 1), bits >> 1
    return parity == 0


def main_effects(keep: Bool[Tensor, "n_runs n"], margins: Float[Tensor, " n_runs"]) -> Float[Tensor, " n"]:
    """Least squares of margins ≈ c + Σ_i effect_i keep_i; for a whole Walsh design, differences of two means."""
    x = torch.cat([torch.ones(len(keep), 1, dtype=torch.float64), keep.double() - 0.5], 1)
    return torch.linalg.lstsq(x, margins.double()[:, None], driver="gelsd").solution[1:, 0]


def design(
    n: int, passes: float, cost: Callable[[Bool[Tensor, "n_runs n"]], float], generator: torch.Generator
) -> Bool[Tensor, "n_runs n"]:
    """Return the largest of the designs of n demonstrations, or of its parts, that costs no more than these passes.

    Runs are left out at random; which half of its column a demonstration is kept in is drawn as well.
    """
    smallest = 1 << n.bit_length()
    sizes = [(smallest, False), *((smallest << power, True) for power in range(3))]
    flips = torch.rand(n, generator=generator) < 0.5
    found = torch.zeros(0, n, dtype=torch.bool)
    for n_runs, clear in sizes:
        if n_runs > 1 << n or (clear and n > n_runs // 2):
            continue
        whole = (walsh(n, n_runs, clear=clear) ^ flips)[torch.randperm(n_runs, generator=generator)]
        low, high = 0, n_runs
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if cost(whole[:middle]) <= passes else (low, middle - 1)
        if low == n_runs or low >= WORTH * len(found):
            found = whole[:low]
        if low < n_runs:
            break
    return found


def affordable(lens: Lens, passes: float, generator: torch.Generator) -> Bool[Tensor, "n_runs n"]:
    """Find the largest design of a lens's demonstrations whose shortened prompts cost at most the given passes."""

    def cost(keep: Tensor) -> float:
        return lens.passes.share_of(0, lens.shortened(keep)) if len(keep) else 0.0

    return design(lens.n_demonstrations, passes, cost, generator)
