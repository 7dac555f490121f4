"""Exponents of curves that are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iclens.benchmarks.exponent import exponent, slope

SIZES = (16, 32, 64, 256, 1024)


@given(p=st.floats(-1, 4), factor=st.floats(1e-6, 1e3))
def test_a_power_is_found_whatever_its_factor(p, factor):
    assert slope(SIZES, [factor * size**p for size in SIZES]) == pytest.approx(p, abs=1e-6)


def test_a_constant_start_shows_in_the_whole_and_not_at_the_end():
    seconds = [1.0 + (size / 256) ** 2 for size in SIZES]
    found = exponent(SIZES, [seconds])
    assert found.median < 0.7
    assert found.last == pytest.approx(1.54, abs=0.02)


def test_rounds_give_the_spread_and_their_medians_the_exponent():
    rounds = [[size**p for size in SIZES] for p in (0.9, 1.0, 1.2)]
    found = exponent(SIZES, rounds)
    assert (found.low, found.median, found.high) == pytest.approx((0.9, 1.0, 1.2))


@pytest.mark.parametrize(("sizes", "seconds"), [((4, 4), (1.0, 2.0)), ((4, 8), (0.0, 1.0)), ((4,), (1.0,))])
def test_what_has_no_exponent_is_refused(sizes, seconds):
    with pytest.raises(ValueError, match="two different sizes and positive numbers"):
        slope(sizes, seconds)
