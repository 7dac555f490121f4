"""The cases themselves, at their quick sizes: outputs agree, and a planted mistake is found."""

from __future__ import annotations

import inspect

import pytest
import torch

from iclens.benchmarks import attention, demonstrations, lens, quality, training
from iclens.benchmarks import measure as measuring
from iclens.benchmarks.case import CASES, Comparison, Context, minutes
from iclens.benchmarks.ceilings import Ceilings
from iclens.benchmarks.gpt2_shaped import TINY, ShapedPrompt, lens_model
from iclens.benchmarks.measure import run_case
from iclens.training.default_dtype import default_dtype

CONTEXT = Context(Ceilings({"float32": 1e10, "float64": 1e10}, 1e10), pairs=1, quick=True)
NAMES = [
    "attention",
    "demonstrations",
    "dictionary",
    "estimators",
    "lens",
    "scale-out",
    "scaling",
    "start-up",
    "training",
]


@pytest.fixture(autouse=True)
def single_precision():
    with default_dtype(torch.float32):
        yield


def test_these_are_the_cases_and_each_has_one_line():
    assert sorted(CASES) == NAMES
    for name in CASES:
        line = inspect.getdoc(CASES[name]).splitlines()[0]
        assert line.endswith(".")
        assert len(line) <= 120


@pytest.mark.parametrize("name", ["attention", "dictionary", "estimators", "lens"])
def test_outputs_agree_at_quick_sizes(name):
    found = [entry for entry in CASES[name](CONTEXT) if isinstance(entry, Comparison)]
    assert found
    for entry in found:
        agreements = entry.check()
        assert agreements
        assert all(one.holds for one in agreements), (entry.what, entry.other.name, agreements)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_case_runs_through(name, monkeypatch):
    monkeypatch.setattr(measuring, "peak_bytes", lambda *args, **options: 1)
    result = run_case(name, CASES[name](CONTEXT), "", CONTEXT)
    assert result.results
    assert result.good


def test_quick_cases_claim_nothing():
    for name in ("attention", "lens", "estimators"):
        assert all(not entry.targets for entry in CASES[name](CONTEXT) if isinstance(entry, Comparison))


def test_a_wrong_variant_is_found_out(monkeypatch):
    assert all(one.holds for one in attention._agreements("negative", 64, False, True, "cpu"))
    # The naive form on its own: with other strengths it is another function.
    monkeypatch.setitem(attention.VARIANTS, "negative", {"k": 1, "beta": 0.1})
    made = attention._made
    betas = iter((0.1, 0.2))
    monkeypatch.setattr(
        attention,
        "_made",
        lambda name, device: (
            monkeypatch.setitem(attention.VARIANTS, "negative", {"k": 1, "beta": next(betas)}) or made(name, device)
        ),
    )
    assert not attention._agreements("negative", 64, False, False, "cpu")[0].holds


def test_wrong_heads_are_found_out():
    ours = lens.capture_call("iclens", tokens=24, quick=True)
    assert all(one.holds for one in lens._same_heads(ours, ours))

    def shifted():
        found = ours()
        return lens._Captured(q=lambda: found["q"], k=lambda: found["k"].roll(1, dims=-2))

    agreements = {one.what: one.holds for one in lens._same_heads(ours, shifted)}
    assert agreements == {"q": True, "k": False}


def test_a_knock_out_that_is_another_demonstrations_is_found_out(monkeypatch):
    problem = demonstrations.Shaped(lens_model(TINY), ShapedPrompt.draw(TINY, 64, 4))
    what = "knock-out against masked attention"
    held = {one.what: one.holds for one in problem.agreements("", problem.ours)}
    assert held[what]
    right = problem._masked_out
    monkeypatch.setattr(problem, "_masked_out", lambda index: right(index + 1))
    held = {one.what: one.holds for one in problem.agreements("", problem.ours)}
    assert not held[what]


def test_scores_of_prompts_side_by_side_are_compared_with_those_of_one(monkeypatch):
    entry = quality.one_batch(CONTEXT)
    assert all(one.holds for one in entry.check())
    right = quality._side_by_side
    monkeypatch.setattr(quality, "_side_by_side", lambda *arguments: right(*arguments).roll(1, 1))
    assert not any(one.holds for one in entry.check())


def test_every_line_of_the_promise_is_measured_at_the_usual_size():
    """Without --long: feature ablation at 16 and 64, every method at one size at least, all tokens up to 32,768."""
    wanted = {n: {name for name, method in demonstrations.METHODS.items() if method.wanted(n)} for n in (4, 16, 64)}
    assert set.union(*wanted.values()) == set(demonstrations.METHODS)
    assert demonstrations.FEATURE_ABLATION in wanted[16] & wanted[64]
    assert all(minutes(CASES[name]) for name in NAMES)
    assert sum(minutes(CASES[name]) for name in NAMES) <= 60


def test_a_loop_that_starts_elsewhere_is_found_out():
    assert training.same_losses(True, training.TransformersLoop)[0].holds

    def elsewhere(ours):
        loop = training.TransformersLoop(ours)
        with torch.no_grad():
            loop.read_out.bias.add_(0.1)
        return loop

    assert not training.same_losses(True, elsewhere)[0].holds


def test_demonstrations_fill_the_prompt_and_the_query_has_its_tokens():
    prompt = ShapedPrompt.draw(TINY, 100, 6)
    assert prompt.groups.tolist() == sorted(prompt.groups.tolist(), key=lambda g: (g < 0, g))
    assert set(prompt.groups.tolist()) == {-1, *range(6)}
    assert int((prompt.groups == -1).sum()) == 8 == 100 - prompt.query_start
    summed = prompt.by_demonstration(torch.ones(100))
    assert summed.tolist() == [15, 15, 15, 15, 15, 17]
