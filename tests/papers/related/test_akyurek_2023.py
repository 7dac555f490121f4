"""The ridge parameter of trained models: planted parameters turn each verdict."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
from tests.recipes.planting import Planted, turning

from iclens.recipes.contract import RECIPES
from iclens.recipes.table import Table

ENTRY = RECIPES["akyurek-ridge-parameter"]
SETTINGS = ENTRY.quick.settings


def planted(alpha=lambda sigma, tau: (sigma / tau) ** 2, unexplained=0.01, at_edge=False) -> Table:
    """Runs with these parameters, up to a spread of a few per cent with which the excess error grows.

    Bayes' error is between that of the noise and that of predicting 0.
    """
    draws = np.random.default_rng(0)
    rows = []
    for sigma, tau in SETTINGS.levels:
        for seed in range(SETTINGS.n_seeds):
            off = abs(0.03 * draws.standard_normal())
            row = {"sigma": sigma, "tau": tau, "seed": seed, "alpha": alpha(sigma, tau) * (1 + off)}
            bayes = 1.05 * sigma**2
            row |= {"at_edge": at_edge, "unexplained": unexplained, "error": bayes * (1 + off), "bayes_error": bayes}
            rows.append(row)
    return Table(rows)


def outcomes(table: Table, settings=SETTINGS) -> list[str]:
    return [verdict.outcome for verdict in ENTRY.check(table, settings)]


def test_bayes_parameter_holds():
    assert outcomes(planted()) == ["holds"] * 4


def test_a_parameter_that_follows_the_noise_alone_is_not_the_ratio():
    parameter, ratio, fit, _ = ENTRY.check(planted(lambda sigma, tau: sigma**2), SETTINGS)
    assert not parameter.holds
    assert not ratio.holds
    assert fit.holds


def test_a_parameter_that_stays_where_it_is_does_not_hold_where_it_happens_to_fit():
    parameter, ratio, *_ = ENTRY.check(planted(lambda sigma, tau: 0.25), SETTINGS)
    assert not parameter.holds
    assert not ratio.holds


def test_levels_at_which_few_runs_learned_are_left_out_and_named():
    """Without (2, 2) three values of the ratio are left; with one level it could be any number that fits there."""

    def failed(*levels):
        return Table(
            row | ({"error": 1e12} if (row["sigma"], row["tau"]) in levels else {}) for row in map(dict, planted())
        )

    found = ENTRY.check(failed((2.0, 2.0)), SETTINGS)[0]
    assert found.outcome == "holds under"
    assert "(0.5, 1) or (1, 1) or (2, 1)" in found.condition
    assert not ENTRY.check(failed((0.5, 1.0), (2.0, 1.0)), SETTINGS)[0].holds


def test_a_run_that_answers_0_has_not_learned():
    """With d = 2 and σ² = 4 its error is 6, less than 1.5 times Bayes' 4.2."""
    blank = Table(row | ({"error": 6.0} if row["sigma"] == 2 and row["tau"] == 1 else {}) for row in planted())
    found = ENTRY.check(blank, SETTINGS)
    assert "σ = 2, τ = 1: 0 of 5 runs learned" in found[0].numbers
    assert "(2, 1)" not in found[0].condition
    assert not found[2].holds


def test_no_finite_parameter_does_not_hold():
    assert outcomes(planted(at_edge=True))[0] == "does not hold"


def test_runs_that_blew_up_are_counted_and_left_out():
    rows = list(planted())
    blown = [{**row, "error": 1e12, "alpha": 1e4, "unexplained": 1e9} if row["seed"] == 1 else row for row in rows]
    found = ENTRY.check(Table(blown), SETTINGS)
    assert [verdict.outcome for verdict in found[:3]] == ["holds under"] * 3
    assert "4 of 5 runs learned" in found[0].numbers
    many = [{**row, "error": 1e12} if row["seed"] > 1 else row for row in rows]
    assert not any(verdict.holds for verdict in ENTRY.check(Table(many), SETTINGS)[::2][:2])


def learned_only(*seeds: int) -> Table:
    return Table(row | ({} if row["seed"] in seeds else {"error": 1e12}) for row in map(dict, planted()))


@pytest.mark.parametrize("seeds", [(), (0,), (0, 1)])
def test_where_nothing_was_learned_nothing_was_measured(seeds):
    """A ratio takes two seeds, a parameter half of the five."""
    parameter, ratio, fit, _ = ENTRY.check(learned_only(*seeds), SETTINGS)
    assert (parameter.outcome, fit.outcome) == ("cannot be tested here", "cannot be tested here")
    assert f"σ = 2, τ = 2: {len(seeds)} of 5 runs learned" in parameter.untested
    assert ratio.outcome == ("holds under" if len(seeds) == 2 else "cannot be tested here")
    if len(seeds) < 2:
        assert f"{len(seeds)} seeds learned all three levels" in ratio.untested


def test_levels_without_a_pair_of_equal_ratios_cannot_tell():
    settings = dataclasses.replace(SETTINGS, levels=((1.0, 1.0), (2.0, 1.0)))
    assert outcomes(planted(), settings)[1] == "cannot be tested here"


def test_a_tiny_run_is_checked_and_drawn():
    settings = dataclasses.replace(SETTINGS, steps=2, batch=4, n_prompts=40, n_seeds=2, n_layers=1)
    table = ENTRY.run(settings)
    assert len(table) == 2 * len(settings.levels)
    assert (table.column("error") > table.column("bayes_error")).all()
    verdicts = ENTRY.check(table, settings)
    assert {verdict.claim for verdict in verdicts} == {claim.statement for claim in ENTRY.claims}
    assert not verdicts[1].holds
    assert len(ENTRY.plot(table, settings).get_axes()) == 2


def other_excess():
    """The same parameters; the excess errors belong to other runs."""
    rows = list(planted())
    over_bayes = [row["error"] / row["bayes_error"] for row in rows]
    return Table(
        row | {"error": row["bayes_error"] * over_bayes[place * 7 % len(rows)]} for place, row in enumerate(rows)
    )


ABSENT = [
    *(
        (0, partial(planted, alpha))
        for alpha in (
            # Off everywhere.
            lambda sigma, tau: 0.6 * (sigma / tau) ** 2,
            lambda sigma, tau: 1.7 * (sigma / tau) ** 2,
            lambda sigma, tau: 0.25,
            lambda sigma, tau: sigma**2,
        )
    ),
    (1, partial(planted, lambda sigma, tau: sigma**2)),
    (2, partial(planted, unexplained=0.2)),
    (3, other_excess),
]
PLANTED = {
    "akyurek-ridge-parameter": [
        # What ridge regression does not explain, and other excess errors, leave the parameter where it is.
        Planted(ENTRY.claims[place], planted, absent, also=() if place > 1 else None)
        for place, absent in ABSENT
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
