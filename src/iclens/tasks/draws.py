"""Random numbers of tasks: in torch's default dtype, on the generator's device."""

from __future__ import annotations

import torch
from torch import Tensor

INPUTS = ("normal", "uniform")


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=generator, device=generator.device)


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1)."""
    return torch.rand(*shape, generator=generator, device=generator.device)


def integers(high: int, generator: torch.Generator, *shape: int) -> Tensor:
    """Whole numbers 0 … high − 1, each as likely."""
    return torch.randint(high, shape, generator=generator, device=generator.device)


def subsets(n: int, size: int, generator: torch.Generator, *shape: int) -> Tensor:
    """`size` different numbers out of 0 … n − 1 in random order, for every index of `shape`: (*shape, size)."""
    return uniform(generator, *shape, n).argsort(-1)[..., :size]


def fixed_normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers that depend on the seed alone, in float64, for what a task fixes over its prompts."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
