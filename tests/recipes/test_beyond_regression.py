"""Stacks on other data than regression: the verdicts hold on models, and turn on broken tables."""

from __future__ import annotations

from functools import cache, partial

import pytest
from tests.recipes.planting import Planted

from iclens.recipes.beyond_regression import EXACT, BeyondRegression
from iclens.recipes.beyond_regression_models import CLASSES, REGRESSION, WORDS, BeyondSettings
from iclens.recipes.table import Table

SMALL = BeyondSettings(depths=(1, 3), width=8, n_context=4, steps=2, n_prompts=2, n_seeds=2)
RECIPE = BeyondRegression()


@cache
def table_of():
    return RECIPE.run(SMALL)


def held(change=lambda row: row):
    return [verdict.holds for verdict in RECIPE.check(Table(change(dict(row)) for row in table_of()), SMALL)]


def test_a_tiny_run_is_exact_and_is_drawn_from_the_table_alone():
    assert held()[:4] == [True] * 4
    assert table_of().where(kind=WORDS).unique("weights") == ["fresh", "trained", "bundled"]
    figure = RECIPE.plot(Table.from_json_columns(table_of().to_columns()), SMALL)
    assert all(ax.get_xlabel() for ax in figure.axes)


@pytest.mark.parametrize("kind", [REGRESSION, CLASSES, WORDS])
def test_one_model_that_is_not_reproduced_turns_its_kind_s_verdict(kind):
    def broken(row):
        here = row["kind"] == kind and row["weights"] == "trained" and row["depth"] == 3 and row["seed"] == 1
        return row | {"residual": 1e-8} if here else row

    assert held(broken)[:3] == [other != kind for other in EXACT]


def test_a_residual_that_is_no_rounding_turns_the_verdict():
    assert not held(lambda row: row | {"residual": 1e-7})[3]
    assert not held(lambda row: row | {"residual": 0.1} if row["dtype"] == "float32" else row)[3]


@pytest.mark.parametrize(("power", "holds"), [(0.5, True), (2.0, False)])
def test_rounding_that_grows_with_the_depth_turns_the_verdict(power, holds):
    assert held(lambda row: row | {"residual": 1e-7 * row["depth"] ** power})[4] == holds


@pytest.mark.parametrize(("distance", "holds"), [(0.1, True), (1e-12, False)])
def test_the_control_turns(distance, holds):
    assert held(lambda row: row | {"held_before": distance})[5] == holds


def changed(change):
    return Table(change(dict(row)) for row in table_of())


def _not_reproduced(kind, row):
    here = row["kind"] == kind and row["weights"] == "trained" and row["depth"] == 3 and row["seed"] == 1
    return row | {"residual": 1e-8} if here else row


def _grows(power, row):
    return row | {"residual": 1e-7 * row["depth"] ** power}


def _held_before(distance, row):
    return row | {"held_before": distance}


PLANTED = {
    "beyond-regression": [
        *(
            Planted(claim, table_of, partial(changed, partial(_not_reproduced, kind)), SMALL)
            for kind, claim in EXACT.items()
        ),
        Planted(RECIPE.claims[3], table_of, partial(changed, lambda row: row | {"residual": 1e-7}), SMALL),
        Planted(
            RECIPE.claims[4], partial(changed, partial(_grows, 0.5)), partial(changed, partial(_grows, 2.0)), SMALL
        ),
        Planted(
            RECIPE.claims[5],
            partial(changed, partial(_held_before, 0.1)),
            partial(changed, partial(_held_before, 1e-12)),
            SMALL,
        ),
    ]
}
