"""The same numbers whatever the caller's random state, number of threads and default dtype are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from iclens.work.workers import torch_threads


@contextmanager
def reproducibly(seed: int, threads: int) -> Iterator[None]:
    """One seed, float32 and so many threads inside; the caller's state outside."""
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch_threads(threads):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
