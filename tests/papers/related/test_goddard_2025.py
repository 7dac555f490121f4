"""Caps of tasks: planted models that never leave their cap, or never had one, turn the verdicts."""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from tests.recipes.planting import Planted, turning

from iclens.estimators.estimator import build_estimator
from iclens.papers.related.goddard_2025 import bands, cap_predictor, mean_task_error
from iclens.recipes.contract import RECIPES
from iclens.recipes.lab_answers import fresh_prompts
from iclens.recipes.table import Table
from iclens.tasks.task import build_task

ENTRY = RECIPES["goddard-spherical-cap"]
SETTINGS = dataclasses.replace(ENTRY.quick.settings, angles=(15.0, 60.0, 120.0, 150.0, 180.0))


def widening(angle):
    return 1.1 if angle < 100 else 0.05


def planted(way=widening, own=0.1, bayes=0.5, own_ridge=0.1) -> Table:
    """Models at some way from ridge regression (error 0.1) to answering 0 (error 1.1) outside their cap.

    `own` is what a model gains on its own cap over 0.1, `own_ridge` the error of ridge regression there, `bayes` what
    the Bayes predictor of the cap loses beyond it.
    """
    draws = np.random.default_rng(0)
    rows = []
    for angle in SETTINGS.angles:
        for seed in range(SETTINGS.n_seeds):
            cells = {"angle": angle, "seed": seed}
            for inner, outer in bands(SETTINGS):
                error = 0.1 + (way(angle) if inner >= angle - 31 else 0.0) + 0.01 * draws.standard_normal()
                row = {"inner": inner, "outer": outer, "outside": inner >= angle, "error": error}
                row |= {"ridge_error": 0.1, "zero_error": 1.1, "error_beside_bayes": error}
                rows.append({**cells, **row, "bayes_error": error + bayes + 0.01 * draws.standard_normal()})
            error = 0.1 - own + 0.01 * draws.standard_normal()
            rows.append({**cells, "own_error": error, "own_ridge_error": own_ridge})
    return Table(rows)


def outcomes(table: Table) -> list[str]:
    return [verdict.outcome for verdict in ENTRY.check(table, SETTINGS)]


def test_a_transition_is_found_where_it_is():
    found = ENTRY.check(planted(), SETTINGS)
    assert [verdict.outcome for verdict in found] == ["holds"] * 3
    assert "the transition lies between 60° and 120°" in found[1].numbers


def test_models_that_never_reach_beyond_their_caps_leave_the_last_question_open():
    assert outcomes(planted(lambda angle: 1.0)) == ["holds", "does not hold", "cannot be tested here"]


def test_models_without_a_cap_of_their_own():
    assert outcomes(planted(lambda angle: 0.05)) == ["does not hold", "does not hold", "holds"]


def test_half_of_the_way_is_neither_lost_nor_learnt():
    assert outcomes(planted(lambda angle: 0.5))[:2] == ["does not hold", "does not hold"]


def test_the_bands_tile_the_sphere():
    found = bands(SETTINGS)
    assert found[0][0] == 0
    assert found[-1][1] == 180
    assert all(one[1] == other[0] for one, other in pairwise(found))


def test_the_predictor_of_a_cap_beats_the_best_linear_one_on_it_and_is_lost_beyond():
    cap = build_task("spherical-cap", d=3, angle=30.0)
    beyond = build_task("spherical-cap", d=3, inner=150.0, angle=180.0)
    bayes, optimal = cap_predictor(cap, 4000), cap.optimal()
    ridge = build_estimator(optimal.estimator, optimal.options)
    for task, better in ((cap, bayes), (beyond, ridge)):
        prompt = fresh_prompts(task, 0, 1000, 6)
        errors = {one: float((one.predict(prompt) - prompt.target).square().mean()) for one in (bayes, ridge)}
        assert min(errors, key=errors.get) is better


def test_of_the_whole_sphere_many_draws_agree_with_more():
    cap = build_task("spherical-cap", d=3, angle=180.0)
    prompt = fresh_prompts(cap, 0, 200, 5)
    few, many = (cap_predictor(cap, n).predict(prompt) for n in (5000, 50_000))
    assert float((few - many).square().mean()) == pytest.approx(0, abs=2e-3)


def test_the_error_of_the_mean_task_is_that_of_its_answers():
    cap = build_task("spherical-cap", d=3, angle=40.0)
    prompt = fresh_prompts(cap, 0, 20_000, 0)
    mean = prompt.function["weight"].mean(0)
    error = float((prompt.query @ mean - prompt.target).square().mean())
    assert error == pytest.approx(mean_task_error(cap), rel=0.05)


def test_a_tiny_run_is_checked_and_drawn():
    settings = dataclasses.replace(
        SETTINGS, angles=(30.0, 180.0), steps=2, batch=4, n_prompts=30, n_bayes=10, n_drawn=50, n_seeds=2, width=8
    )
    table = ENTRY.run(settings)
    assert len(table) == 2 * 2 * (settings.n_bands + 1)
    asked = table.only("inner")
    assert (asked.column("ridge_error") < asked.column("zero_error")).all()
    verdicts = ENTRY.check(table, settings)
    assert {verdict.claim for verdict in verdicts} == {claim.statement for claim in ENTRY.claims}
    assert len(ENTRY.plot(table, settings).get_axes()) == 2


PLANTED = {
    "goddard-spherical-cap": [
        Planted(ENTRY.claims[0], planted, partial(planted, own=-0.1), SETTINGS, also=()),
        Planted(ENTRY.claims[0], planted, partial(planted, own=-0.1, own_ridge=0.4), SETTINGS, also=()),
        Planted(ENTRY.claims[0], planted, partial(planted, lambda angle: 0.05), SETTINGS),
        Planted(ENTRY.claims[1], planted, partial(planted, lambda angle: 1.0), SETTINGS),
        Planted(ENTRY.claims[2], planted, partial(planted, bayes=-0.05), SETTINGS, also=()),
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
