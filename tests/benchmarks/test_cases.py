"""The cases themselves, at their quick sizes: outputs agree, and a planted mistake is found."""

from __future__ import annotations

import inspect
from dataclasses import replace
from itertools import islice

import pytest
import torch

from iclens.benchmarks import measuring as measuring
from iclens.benchmarks.case import CASES, Comparison, Context, minutes
from iclens.benchmarks.cases import attention, demonstrations, lens, quality, training
from iclens.benchmarks.ceilings import Ceilings
from iclens.benchmarks.gpt2_shaped import TINY, ShapedPrompt, lens_model
from iclens.benchmarks.measuring import run_case
from iclens.papers.attribution.measures import Measured
from iclens.training.default_dtype import default_dtype

CONTEXT = Context(Ceilings({"float32": 1e10, "float64": 1e10}, 1e10), pairs=1, quick=True)
NAMES = [
    "absorb",
    "attention",
    "deletions",
    "demonstrations",
    "dictionary",
    "estimators",
    "explain",
    "influence",
    "lens",
    "responses",
    "scale-out",
    "scaling",
    "select",
    "start-up",
    "store",
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
    assert all(one.holds for one in attention.agreements("negative", 64, False, True, "cpu"))
    # The naive form on its own: with other strengths it is another function.
    monkeypatch.setitem(attention.VARIANTS, "negative", {"n_negatives": 1, "beta": 0.1})
    made = attention.made
    betas = iter((0.1, 0.2))
    monkeypatch.setattr(
        attention,
        "made",
        lambda name, device: (
            monkeypatch.setitem(attention.VARIANTS, "negative", {"n_negatives": 1, "beta": next(betas)})
            or made(name, device)
        ),
    )
    assert not attention.agreements("negative", 64, False, False, "cpu")[0].holds


def test_wrong_heads_are_found_out():
    ours = lens.capture_call("iclens", tokens=24, quick=True)
    assert all(one.holds for one in lens.same_heads(ours, ours))

    def shifted():
        found = ours()
        return lens.Captured(q=lambda: found["q"], k=lambda: found["k"].roll(1, dims=-2))

    agreements = {one.what: one.holds for one in lens.same_heads(ours, shifted)}
    assert agreements == {"q": True, "k": False}


def test_a_knock_out_that_is_another_demonstrations_is_found_out(monkeypatch):
    problem = demonstrations.Shaped(lens_model(TINY), ShapedPrompt.draw(TINY, 64, 4))
    what = "knock-out against masked attention"
    held = {one.what: one.holds for one in problem.agreements()}
    assert held[what]
    right = problem.masked_out
    monkeypatch.setattr(problem, "masked_out", lambda index: right(index + 1))
    held = {one.what: one.holds for one in problem.agreements()}
    assert not held[what]


@pytest.mark.parametrize("name", demonstrations.METHODS)
def test_a_method_whose_scores_are_those_of_others_is_found_out(name, monkeypatch):
    """Whatever it is, its numbers are compared with their definition before its time is."""
    problem = demonstrations.Shaped(lens_model(TINY), ShapedPrompt.draw(TINY, 64, 4))
    n_ours = len(problem.agreements())
    held = [one.holds for one in demonstrations.agreements(problem, name)]
    assert len(held) > n_ours
    assert all(held)
    method = demonstrations.METHODS[name]

    def rolled(some):
        call = method.make(some)
        return lambda: call().roll(1)

    monkeypatch.setitem(demonstrations.METHODS, name, replace(method, make=rolled))
    held = [one.holds for one in demonstrations.agreements(problem, name)]
    assert all(held[:n_ours])
    assert not all(held[n_ours:])


def test_shapley_values_that_miss_a_part_are_found_out(monkeypatch):
    problem = demonstrations.Shaped(lens_model(TINY), ShapedPrompt.draw(TINY, 64, 4))
    method = demonstrations.METHODS[demonstrations.SHAPLEY]
    less = replace(method, make=lambda some: lambda: 0.9 * method.make(some)())
    monkeypatch.setitem(demonstrations.METHODS, demonstrations.SHAPLEY, less)
    held = {one.what: one.holds for one in demonstrations.agreements(problem, demonstrations.SHAPLEY)}
    assert not held["sum of the Shapley values against all demonstrations together"]


def test_a_method_is_run_before_it_is_timed_or_its_row_says_that_it_was_not(monkeypatch):
    monkeypatch.setattr(demonstrations, "lens_model", lambda shape: lens_model(TINY))
    monkeypatch.setattr(demonstrations, "SMALL", replace(TINY, positions=demonstrations.N_TOKENS))
    rows = [
        entry
        for entry in islice(demonstrations.demonstrations(replace(CONTEXT, quick=False)), 10)
        if isinstance(entry, Comparison)
    ]
    cold = [entry for entry in rows if not entry.warm_up]
    assert cold
    assert len(cold) < len(rows)
    assert all(entry.what.endswith("without a warm-up call") == (entry in cold) for entry in rows)


VERDICTS = {"AUC": ("auc", +1), "right answers": ("removed", -1), "LDS": ("lds", +1)}


def planted(name, shift, spread):
    """A method and the Lasso; in one measure the method is better by `shift`, more or less."""
    measure, sign = VERDICTS[name]
    noise = torch.randn(100, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    noise = (noise - noise.mean()) / noise.std()
    levels = {one: torch.full((100,), 0.5, dtype=torch.float64) for one in ("auc", "removed", "lds")}
    ours = levels | {measure: levels[measure] + sign * shift + spread * noise}
    return Measured(ours, 1.0, 0.0, 1.0), Measured(levels, 64.0, 0.0, 1.0)


@pytest.mark.parametrize("name", VERDICTS)
def test_a_wide_interval_is_no_proof_that_a_method_is_as_good(name):
    def holds(shift, spread):
        found = quality.verdicts(*planted(name, shift, spread))
        (own,) = (verdict.holds for verdict in found if verdict.claim.startswith(name))
        assert all(verdict.holds for verdict in found if not verdict.claim.startswith(name))
        return own

    assert holds(0.0, 0.0)
    assert holds(0.0, 0.01)
    assert holds(0.2, 0.5)
    # The interval holds 0, and much that is worse.
    assert not holds(0.0, 0.5)
    assert not holds(-0.1, 0.6)
    assert not holds(-0.1, 0.01)


def test_scores_of_prompts_side_by_side_are_compared_with_those_of_one(monkeypatch):
    entry = quality.one_batch(CONTEXT)
    assert all(one.holds for one in entry.check())
    right = quality.side_by_side
    monkeypatch.setattr(quality, "side_by_side", lambda *arguments: right(*arguments).roll(1, 1))
    assert not any(one.holds for one in entry.check())


def test_every_line_of_the_promise_is_measured_at_the_usual_size():
    """Without --long: feature ablation at 16 and 64, every method at one size at least, all tokens up to 32,768."""
    wanted = {n: {name for name, method in demonstrations.METHODS.items() if method.wanted(n)} for n in (4, 16, 64)}
    assert set.union(*wanted.values()) == set(demonstrations.METHODS)
    assert demonstrations.FEATURE_ABLATION in wanted[16] & wanted[64]
    assert all(minutes(CASES[name]) for name in NAMES)
    assert sum(minutes(CASES[name]) for name in NAMES) <= 95


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
