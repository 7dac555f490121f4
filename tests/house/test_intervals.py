"""Means with intervals."""

from __future__ import annotations

import pytest

from iclens.intervals import Estimate


@pytest.mark.parametrize(("expected", "agrees"), [(2.0, True), (2.9, True), (3.1, False), (1.1, True), (0.9, False)])
def test_an_exact_value_may_lie_within_twice_the_interval(expected, agrees):
    assert Estimate(2.0, 1.5, 2.5, 10).agrees(expected) is agrees
