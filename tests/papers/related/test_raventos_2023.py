"""Task diversity: planted models that stay with their pool, leave it, or cannot be told turn the verdicts."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
from tests.recipes.planting import Planted, turning

from iclens.estimators.estimator import build_estimator
from iclens.papers.related.raventos_2023 import distance_from_ridge
from iclens.recipes.contract import RECIPES
from iclens.recipes.lab_answers import fresh_prompts, squared_error
from iclens.recipes.seed_curves import seed_mean
from iclens.recipes.table import Table
from iclens.tasks.task import build_task

ENTRY = RECIPES["raventos-threshold"]
SETTINGS = ENTRY.quick.settings


LABELS = SETTINGS.d + SETTINGS.noise_std**2


def planted(share, gain=lambda n: 0.5, spread=lambda n: 0.2) -> Table:
    """Models whose distance to dMMSE has this share (of the number of tasks), and this gain over dMMSE.

    `spread` is the sum of both distances, relative to the mean square of ridge regression's answers.
    """
    draws = np.random.default_rng(0)
    rows = []
    for n in SETTINGS.pools:
        for seed in range(SETTINGS.n_seeds):
            distance = spread(n) * (LABELS - 0.4) * (1 + 0.02 * draws.standard_normal())
            row = {"tasks": n, "seed": seed, "ridge_error": 0.4, "pool_error": 2.0}
            row |= {"error": 2.0 - gain(n) + 0.02 * draws.standard_normal()}
            row |= {"from_pool": share(n) * distance, "from_ridge": (1 - share(n)) * distance}
            rows += [row | {"prompts": kind} for kind in ("pool", "fresh")]
    return Table(rows)


def outcomes(table: Table) -> list[str]:
    return [verdict.outcome for verdict in ENTRY.check(table, SETTINGS)]


def test_a_threshold_is_found_where_it_is():
    few, threshold, beyond = ENTRY.check(planted(_leaves), SETTINGS)
    assert few.holds
    assert threshold.holds
    assert beyond.holds
    assert "between 8 and 32 tasks" in threshold.numbers
    assert beyond.outcome == "holds"


def test_a_model_that_never_leaves_its_pool_and_one_that_never_had_it():
    assert outcomes(planted(lambda n: 0.1)) == ["holds", "does not hold", "cannot be tested here"]
    assert outcomes(planted(lambda n: 0.9)) == ["does not hold", "does not hold", "cannot be tested here"]


def test_the_wrong_way_round_is_no_threshold():
    assert outcomes(planted(lambda n: 0.9 if n <= 8 else 0.2))[:2] == ["does not hold", "does not hold"]


def test_a_small_pool_that_left_dmmse_without_learning_is_the_wrong_way_round_too():
    assert outcomes(hardly_learned()) == ["holds", "does not hold", "cannot be tested here"]


def test_a_model_that_is_no_better_than_its_prior():
    assert outcomes(planted(_leaves, lambda n: -0.1))[2] == "does not hold"
    found = ENTRY.check(planted(_leaves, lambda n: 0.5 if n == 32 else -0.1), SETTINGS)[2]
    assert (found.outcome, found.condition) == ("holds under", "the pool has 32 tasks")


def test_the_better_of_two_pools_has_to_be_better_than_luck():
    table = one_lucky_pool()
    lucky = table.where(prompts="fresh", tasks=32)
    assert seed_mean(lucky.column("pool_error") - lucky.column("error")).low > 0
    assert outcomes(table) == ["holds", "holds", "does not hold"]


def test_nearer_to_ridge_regression_than_to_dmmse_is_not_near():
    """Half of ridge regression's answers: a quarter of their mean square away from them, dMMSE further."""
    threshold = ENTRY.check(planted(_leaves, spread=lambda n: 1.3), SETTINGS)[1]
    assert not threshold.holds
    assert "32 tasks 0.26" in threshold.numbers
    assert "ridge regression 0.40" in threshold.numbers


def test_the_mean_square_of_ridge_answers_is_known_from_its_error():
    task = build_task("linear", d=SETTINGS.d, noise_std=SETTINGS.noise_std)
    prompt = fresh_prompts(task, 0, 4000, SETTINGS.n_context)
    ridge = build_estimator("ridge", {"alpha": SETTINGS.noise_std**2}).predict(prompt)
    rows = Table([{"from_ridge": 1.0, "ridge_error": squared_error(ridge, prompt.target)}])
    away = distance_from_ridge(rows, SETTINGS)
    assert 1 / float(away[0]) == pytest.approx(float(ridge.square().mean()), rel=0.1)


def test_a_tiny_run_is_checked_and_drawn():
    settings = dataclasses.replace(SETTINGS, pools=(2, 8), steps=2, batch=4, n_prompts=40, n_seeds=2, width=8)
    table = ENTRY.run(settings)
    assert len(table) == 8
    # dMMSE is best on its own pool, ridge regression on fresh weights.
    pool, fresh = (table.where(prompts=kind) for kind in ("pool", "fresh"))
    assert pool.column("pool_error").mean() < pool.column("ridge_error").mean()
    assert fresh.column("ridge_error").mean() < fresh.column("pool_error").mean()
    verdicts = ENTRY.check(table, settings)
    assert {verdict.claim for verdict in verdicts} == {claim.statement for claim in ENTRY.claims}
    assert len(ENTRY.plot(table, settings).get_axes()) == 3


def _leaves(n):
    return 0.1 if n <= 8 else 0.8


def hardly_learned():
    """With 4 tasks far from both, and further from dMMSE; with 8 near dMMSE again."""
    return planted(lambda n: 0.8 if n == 4 else _leaves(n), spread=lambda n: 2.0 if n == 4 else 0.2)


def one_lucky_pool():
    """With 32 tasks a gain of 3.1 standard errors: with 5 seeds 2.8 tell one pool from 0, 3.5 the better of two."""

    def error(row):
        return 2.0 - 3.1 * 0.1 * 0.5**0.5 + 0.1 * (row["seed"] - 2)

    table = planted(_leaves, lambda n: -0.1)
    return Table(row | ({"error": error(row)} if row["tasks"] == 32 else {}) for row in map(dict, table))


PLANTED = {
    "raventos-threshold": [
        Planted(claim, partial(planted, _leaves), absent)
        for claim, absent in zip(
            ENTRY.claims,
            (
                partial(planted, lambda n: 0.9),
                partial(planted, lambda n: 0.1),
                partial(planted, _leaves, lambda n: -0.1),
            ),
            strict=True,
        )
    ]
    + [
        Planted(ENTRY.claims[1], partial(planted, _leaves), partial(planted, _leaves, spread=lambda n: 1.3)),
        Planted(ENTRY.claims[1], partial(planted, _leaves), hardly_learned),
        Planted(ENTRY.claims[2], partial(planted, _leaves), one_lucky_pool),
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
