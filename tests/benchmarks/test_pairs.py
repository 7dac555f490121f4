"""Interleaved pairs, on a clock that only the calls move."""

from __future__ import annotations

import pytest

from iclens.benchmarks.pairs import ratio


class Clock:
    """A clock that stands still but for calls that take a known time."""

    def __init__(self):
        self.now = 0.0
        self.order = []

    def __call__(self):
        return self.now

    def taking(self, name, *seconds):
        """A call that takes these seconds in turn, the last one ever after."""
        waiting = list(seconds)

        def call():
            self.order.append(name)
            self.now += waiting.pop(0) if len(waiting) > 1 else waiting[0]

        return call


def test_ratio_of_known_times():
    clock = Clock()
    found = ratio(clock.taking("a", 6.0), clock.taking("b", 2.0), pairs=3, clock=clock)
    assert (found.median, found.low, found.high) == pytest.approx((3.0, 3.0, 3.0))
    assert (found.seconds_a, found.seconds_b) == pytest.approx((6.0, 2.0))


def test_calls_alternate_and_the_faster_one_is_repeated():
    clock = Clock()
    found = ratio(clock.taking("a", 6.0), clock.taking("b", 2.0), pairs=2, clock=clock)
    # One of each to warm up, one of each to see how long they take, then the pairs.
    assert "".join(clock.order) == "ab" + "ab" + "abbb" * 2
    assert (found.repeats_a, found.repeats_b) == (1, 3)


def test_without_repetition_or_warm_up():
    clock = Clock()
    ratio(clock.taking("a", 6.0), clock.taking("b", 2.0), pairs=3, repeat=False, warm_up=False, clock=clock)
    assert "".join(clock.order) == "ababab"


def test_the_spread_is_that_of_the_pairs_and_one_slow_call_does_not_move_the_median():
    clock = Clock()
    a = clock.taking("a", 1.0, 1.0, 2.0, 90.0, 3.0)
    found = ratio(a, clock.taking("b", 1.0), pairs=5, repeat=False, warm_up=False, clock=clock)
    assert found.ratios == pytest.approx((1.0, 1.0, 2.0, 90.0, 3.0))
    assert (found.median, found.low, found.high) == pytest.approx((2.0, 1.0, 90.0))
