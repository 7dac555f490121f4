"""From entries to numbers: nothing is timed unless outputs agree, targets are judged, floors are compared."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from iclens.benchmarks import measuring as module
from iclens.benchmarks.case import (
    Absent,
    Agreement,
    Comparison,
    Context,
    Curve,
    Listing,
    Probe,
    Side,
    Target,
    Verdict,
)
from iclens.benchmarks.ceilings import Ceilings, Floor
from iclens.benchmarks.document import plain
from iclens.benchmarks.measuring import measure, run_case
from iclens.benchmarks.pairs import Ratio

CONTEXT = Context(Ceilings({"float32": 1e9}, 1e9), pairs=3)


def comparison(ours, theirs, **options):
    """Two functions of tensors, counted calls and all."""
    return Comparison(
        "what",
        Side("ours", ours),
        Side("theirs", theirs),
        lambda: [Agreement.of("outputs", ours(), theirs())],
        **options,
    )


def fixed_times(monkeypatch, seconds_other, seconds_ours):
    found = Ratio(seconds_other / seconds_ours, 1.0, 9.0, seconds_other, seconds_ours, (1.0,), 1, 1)
    monkeypatch.setattr(module, "ratio", lambda *args, **options: found)


def test_outputs_that_agree_are_timed():
    x = torch.randn(5)
    result = measure(comparison(lambda: x * 2, lambda: x + x), CONTEXT)
    assert result.agrees
    assert result.good
    assert len(result.speed_up.ratios) == 3


@pytest.mark.parametrize(
    "wrong",
    [lambda x: x + 1e-3 * x.abs().max(), lambda x: x[:-1], lambda x: x * math.nan, lambda x: -x],
    ids=["a thousandth", "one missing", "nan", "sign"],
)
def test_a_wrong_output_is_never_timed(wrong, monkeypatch):
    def no_timing(*args, **options):
        raise AssertionError("it was timed")

    monkeypatch.setattr(module, "ratio", no_timing)
    monkeypatch.setattr(module, "peak_bytes", no_timing)
    x = torch.randn(5)
    result = measure(comparison(lambda: wrong(x), lambda: x), CONTEXT)
    assert not result.agrees
    assert not result.good
    assert result.speed_up is None
    assert plain(result)["speed_up"] is None


def test_a_check_that_compares_nothing_is_no_agreement():
    entry = Comparison("what", Side("ours", list), Side("theirs", list), list)
    assert not measure(entry, CONTEXT).agrees


def test_agreement_is_relative_to_the_largest_entry():
    x = torch.tensor([100.0, 0.0])
    assert Agreement.of("x", x + torch.tensor([0.0, 1e-2]), x).error == pytest.approx(1e-4)
    assert Agreement.of("zeros", torch.zeros(2), torch.zeros(2)).holds
    assert Agreement.of("of nothing", torch.ones(2), torch.zeros(2)).error == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("target", "reached"),
    [
        (Target("speed-up", 4.0), True),
        (Target("speed-up", 4.1), False),
        (Target("seconds", 0.5), True),
        (Target("seconds", 0.4), False),
        (Target("memory share", 0.25), True),
        (Target("memory share", 0.24), False),
    ],
)
def test_targets(target, reached, monkeypatch):
    fixed_times(monkeypatch, seconds_other=2.0, seconds_ours=0.5)
    peaks = iter((100, 400))
    monkeypatch.setattr(module, "peak_bytes", lambda *args, **options: next(peaks))
    x = torch.ones(1)
    sides = [Side(name, lambda: x, Probe(name, {})) for name in ("ours", "theirs")]
    entry = Comparison("what", *sides, lambda: [Agreement.of("x", x, x)], targets=(target,))
    context = replace(CONTEXT, peaks={})
    result = measure(entry, context)
    assert result.targets[0].reached is reached
    # Nothing is left of the two peaks: a probe runs once.
    assert measure(entry, context).peaks == result.peaks
    assert result.good is reached


def test_a_target_that_could_not_be_measured_is_neither_reached_nor_missed(monkeypatch):
    fixed_times(monkeypatch, seconds_other=2.0, seconds_ours=0.5)
    x = torch.ones(1)
    result = measure(comparison(lambda: x, lambda: x, targets=(Target("memory share", 0.25),)), CONTEXT)
    assert result.targets[0].reached is None


def test_the_gap_is_to_the_larger_bound(monkeypatch):
    fixed_times(monkeypatch, seconds_other=2.0, seconds_ours=0.5)
    x = torch.ones(1)
    # 0.1 s of operations and 0.05 s of bytes at the context's ceilings.
    gap = measure(comparison(lambda: x, lambda: x, floor=Floor(1e8, 5e7, "counted")), CONTEXT).gap
    assert (gap.bound_by, gap.seconds, gap.times) == ("operations", pytest.approx(0.1), pytest.approx(5.0))
    gap = measure(comparison(lambda: x, lambda: x, floor=Floor(1e8, 2e8, "counted")), CONTEXT).gap
    assert (gap.bound_by, gap.seconds, gap.times) == ("bytes", pytest.approx(0.2), pytest.approx(2.5))


def test_curves_take_turns_and_find_their_exponent():
    order = []

    def make(size):
        def call():
            if size not in order[-1:]:
                order.append(size)
            return sum(range(size * 20_000))

        return call

    result = measure(Curve("sums", "numbers", (1, 2, 4, 8), {"sum": make}), CONTEXT)
    assert order == [1, 2, 4, 8] * 4
    assert result.exponents["sum"].median == pytest.approx(1.0, abs=0.4)
    assert result.good


def test_every_kind_of_result_is_json():
    x = torch.ones(1)
    entries = [
        comparison(lambda: x, lambda: x, floor=Floor(1e3, 1e3, "counted"), targets=(Target("speed-up", 1e9),)),
        Curve("sums", "numbers", (100, 200), {"sum": lambda n: lambda: sum(range(n))}),
        Listing("rows", [{"a": 1, "b": "x"}], (Verdict("b is x", True, "1 of 1"),)),
        Absent("peer", "not installed"),
    ]
    result = run_case("case", iter(entries), "a case", CONTEXT)
    assert [plain(one)["kind"] for one in result.results] == ["comparison", "curve", "table", "absent"]
    json.dumps([plain(one) for one in result.results], allow_nan=False)
    # The planted target is out of reach, and that alone spoils the case.
    assert not result.good
    assert all(one.good for one in result.results[1:])
