"""Stacks on other data than regression: the verdicts hold on models, and turn on broken tables."""

from __future__ import annotations

from functools import cache, partial

from tests.recipes.planting import Planted, turning

from iclens.papers.ren_liu_2024.beyond_regression import EXACT, BeyondRegression
from iclens.papers.ren_liu_2024.beyond_regression_models import WORDS, BeyondSettings
from iclens.recipes.table import Table

SMALL = BeyondSettings(depths=(1, 3), width=8, n_context=4, steps=2, n_prompts=2, n_seeds=2)
RECIPE = BeyondRegression()


@cache
def table_of():
    return RECIPE.run(SMALL)


def test_a_tiny_run_is_exact_and_is_drawn_from_the_table_alone():
    assert [verdict.holds for verdict in RECIPE.check(table_of(), SMALL)][:4] == [True] * 4
    assert table_of().where(kind=WORDS).unique("weights") == ["fresh", "trained", "bundled"]
    figure = RECIPE.plot(Table.from_json_columns(table_of().to_columns()), SMALL)
    assert all(ax.get_xlabel() for ax in figure.axes)


def changed(change):
    return Table(change(dict(row)) for row in table_of())


def _not_reproduced(kind, row):
    here = row["kind"] == kind and row["weights"] == "trained" and row["depth"] == 3 and row["seed"] == 1
    return row | {"residual": 1e-8} if here else row


def _coarse_in_float32(row):
    return row | {"residual": 0.1} if row["dtype"] == "float32" else row


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
        Planted(RECIPE.claims[3], table_of, partial(changed, _coarse_in_float32), SMALL),
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

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
