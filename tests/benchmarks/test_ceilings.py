"""Ceilings and the floors that are held against them."""

from __future__ import annotations

import time

import pytest
import torch

from iclens.benchmarks.ceilings import Ceilings, Floor, measure_ceilings


def test_bounds_are_operations_and_bytes_over_their_ceilings():
    ceilings = Ceilings({"float32": 1e9, "float64": 5e8}, 1e10)
    assert ceilings.bounds(Floor(2e9, 1e9, "")) == pytest.approx({"operations": 2.0, "bytes": 0.1})
    assert ceilings.bounds(Floor(2e9, 1e9, "", "float64"))["operations"] == pytest.approx(4.0)


def test_a_product_measured_here_stays_near_the_ceiling():
    ceilings = measure_ceilings(repeats=3, largest=512)
    assert set(ceilings.operations) == {"float32", "float64"}
    a = torch.randn(512, 512, dtype=torch.float32)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(a, a)
        seconds.append(time.perf_counter() - start)
    # Within what a busy machine does to a best of a few.
    assert 0.1 < 2 * 512**3 / min(seconds) / ceilings.operations["float32"] < 10
    assert ceilings.bytes > 1e8
