"""Memorising and generalising: planted models that follow a posterior, a constant mixture or neither."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
from tests.recipes.planting import Planted, turning

from iclens.papers.related.strategy_odds import Condition, Odds, fitted, squares
from iclens.papers.related.wurgaft_2025 import ceiling, held_out, kept_steps, turning_steps
from iclens.recipes.contract import RECIPES
from iclens.recipes.table import Table

ENTRY = RECIPES["wurgaft-strategies"]
SETTINGS = dataclasses.replace(ENTRY.quick.settings, pools=(4, 6, 8, 12, 16))
TRUE = Odds(gain=8.0, growth=1.0, cost=0.05, power=1.0)


def saved(tasks):
    return tasks**-0.5


def planted(weight=TRUE.weight, beside=0.01) -> Table:
    """Models whose answers are mixtures of the predictors by this weight, and another part of this mean square."""
    draws = np.random.default_rng(0)
    rows = []
    for tasks in SETTINGS.pools:
        for seed in range(SETTINGS.n_seeds):
            for step in kept_steps(SETTINGS):
                for kind, between in (("pool", 0.5), ("fresh", 1.5)):
                    one = Condition(tasks, step, saved(tasks), between, 0.0, 0.0, 1.0)
                    w = weight(one) + 0.01 * draws.standard_normal()
                    row = {"tasks": tasks, "seed": seed, "step": step, "prompts": kind, "saved": saved(tasks)}
                    row |= {"between": between, "along": w * between, "from_prior": w**2 * between + beside}
                    rows.append({**row, "variance": 1.0})
    return Table(rows)


def turning_at(power):
    """A weight that passes 1/2 after a number of steps that grows as this power of the number of tasks."""
    return lambda one: 0.5 + 0.4 * np.tanh(np.log(one.step / (100 * (one.tasks / 4) ** power)))


def outcomes(table: Table) -> list[str]:
    return [verdict.outcome for verdict in ENTRY.check(table, SETTINGS)]


def test_the_odds_that_were_planted_are_found():
    found = fitted([Condition.of(row) for row in planted(beside=0.0)])
    for tasks in SETTINGS.pools:
        for step in kept_steps(SETTINGS):
            one = Condition(tasks, step, saved(tasks), 1.0, 0.0, 0.0, 1.0)
            assert found.weight(one) == pytest.approx(TRUE.weight(one), abs=0.02)


def test_the_error_of_a_mixture_is_that_of_the_answers_themselves():
    draws = np.random.default_rng(0)
    memorised, general, model = draws.standard_normal((3, 50))
    between, along = ((memorised - general) ** 2).mean(), ((memorised - general) * (model - general)).mean()
    one = Condition(4, 10, 1.0, between, along, ((model - general) ** 2).mean(), model.var())
    for weight in (0.0, 0.3, 1.0):
        assert one.error(weight) == pytest.approx(((model - weight * memorised - (1 - weight) * general) ** 2).mean())
    assert all(one.error(one.best) <= one.error(one.best + away) for away in (-0.1, 0.1))
    assert squares([one, one]).best == pytest.approx(one.best)


def test_more_loss_saved_and_more_steps_make_memorising_likelier_and_more_tasks_less():
    one = Condition(16, 500, 0.3, 1.0, 0.0, 0.0, 1.0)
    weight = TRUE.weight(one)
    assert TRUE.weight(dataclasses.replace(one, step=1000)) > weight
    assert TRUE.weight(dataclasses.replace(one, saved=0.6)) > weight
    assert TRUE.weight(dataclasses.replace(one, tasks=64)) < weight
    # Far beyond the range of exponentials.
    assert TRUE.weight(dataclasses.replace(one, step=10**9)) == 1.0
    assert Odds(1.0, 1.0, 1.0, 2.0).weight(dataclasses.replace(one, tasks=10**6)) == 0.0


def test_models_that_only_memorise_need_no_posterior():
    assert outcomes(planted(lambda one: 1.0)) == ["holds", "does not hold", "cannot be tested here"]


def test_what_no_mixture_explains_is_not_explained():
    assert outcomes(planted(beside=0.5))[0] == "does not hold"


def test_no_posterior_explains_more_than_a_weight_for_every_pool_and_step():
    table = planted(beside=0.3)
    found = np.mean([held_out(table, SETTINGS, pool)["posterior"].mean() for pool in SETTINGS.pools])
    assert found < ceiling(table, SETTINGS) == pytest.approx(0.7, abs=0.001)


def test_the_step_of_the_turn_is_found():
    found = turning_steps(planted(turning_at(0.5)), SETTINGS)
    assert set(found) == set(SETTINGS.pools)
    assert [found[pool] for pool in (4, 8, 16)] == pytest.approx([100, 141, 200], rel=0.1)


def test_a_tiny_run_is_checked_and_drawn():
    settings = dataclasses.replace(
        SETTINGS, pools=(2, 8), steps=10, n_kept=2, batch=4, n_prompts=40, n_seeds=2, width=8
    )
    table = ENTRY.run(settings)
    assert kept_steps(settings) == [1, 10]
    assert len(table) == 2 * 2 * 2 * 2
    assert (table.column("between") > 0).all()
    # The Bayes predictor of the pool saves loss on it.
    assert table.column("saved").min() > 0
    verdicts = ENTRY.check(table, settings)
    assert {verdict.claim for verdict in verdicts} == {claim.statement for claim in ENTRY.claims}
    assert len(ENTRY.plot(table, settings).get_axes()) == 2


PLANTED = {
    "wurgaft-strategies": [
        Planted(ENTRY.claims[0], planted, partial(planted, beside=0.5), SETTINGS),
        Planted(ENTRY.claims[1], planted, partial(planted, lambda one: 0.5), SETTINGS),
        Planted(ENTRY.claims[2], partial(planted, turning_at(1.2)), partial(planted, turning_at(0.5)), SETTINGS),
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
