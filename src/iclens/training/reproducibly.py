"""The same numbers whatever the caller's random state, number of threads and default dtype are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from iclens.training.default_dtype import default_dtype
from iclens.work.workers import torch_threads


@contextmanager
def reproducibly(seed: int, threads: int) -> Iterator[None]:
    """Run the block with a fixed seed, float32 and the given threads; restore the caller's state."""
    with torch.random.fork_rng(devices=[]), torch_threads(threads), default_dtype(torch.float32):
        torch.manual_seed(seed)
        yield
