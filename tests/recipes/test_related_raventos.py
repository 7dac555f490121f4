"""Task diversity: planted models that stay with their pool, leave it, or cannot be told turn the verdicts."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
from tests.recipes.planting import Planted

from iclens.recipes.recipe import RECIPES
from iclens.recipes.table import Table

ENTRY = RECIPES["raventos-threshold"]
SETTINGS = ENTRY.quick.settings


def planted(share, gain=lambda n: 0.5) -> Table:
    """Models whose distance to dMMSE has this share (of the number of tasks), and this gain over dMMSE."""
    draws = np.random.default_rng(0)
    rows = []
    for n in SETTINGS.pools:
        for seed in range(SETTINGS.n_seeds):
            distance = 2.0 * (1 + 0.02 * draws.standard_normal())
            row = {"tasks": n, "seed": seed, "ridge_error": 0.4, "pool_error": 2.0, "apart": 1.5}
            row |= {"error": 2.0 - gain(n) + 0.02 * draws.standard_normal()}
            row |= {"from_pool": share(n) * distance, "from_ridge": (1 - share(n)) * distance}
            rows += [row | {"prompts": kind} for kind in ("pool", "fresh")]
    return Table(rows)


def outcomes(table: Table) -> list[str]:
    return [verdict.outcome for verdict in ENTRY.check(table, SETTINGS)]


def test_a_threshold_is_found_where_it_is():
    few, threshold, beyond = ENTRY.check(planted(lambda n: 0.1 if n <= 8 else 0.8), SETTINGS)
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


def test_a_model_that_is_no_better_than_its_prior():
    share = lambda n: 0.1 if n <= 8 else 0.8  # noqa: E731
    assert outcomes(planted(share, lambda n: -0.1))[2] == "does not hold"
    found = ENTRY.check(planted(share, lambda n: 0.5 if n == 32 else -0.1), SETTINGS)[2]
    assert (found.outcome, found.condition) == ("holds under", "the pool has 32 tasks")


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
}
