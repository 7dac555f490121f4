"""Verdicts on better optimizers follow the numbers: planted differences are found, and their absence too."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
from tests.papers.ren_liu_2024.test_variant_study import planted
from tests.recipes.planting import Planted, turning

from iclens.papers.ren_liu_2024.better_optimizers import BEST, BEYOND, HELPS, KINDS, TO_THE_END
from iclens.recipes.contract import RECIPES, silent

STUDY = RECIPES["better-optimizers"]
SETTINGS = dataclasses.replace(STUDY.quick.settings, tasks=("linear", "sparse"), n_seeds=10)

FIRST = {kind: next(label for label, row in STUDY.rows.items() if row.kind == kind) for kind in KINDS}


def table(factors=None):
    return partial(planted, STUDY, SETTINGS, factors or {})


def of(kind, factor):
    """The errors of a kind's first row and of its control, times these factors."""
    return {FIRST[kind]: factor, STUDY.rows[FIRST[kind]].control: 1.0}


def test_every_row_that_is_judged_has_a_control_of_its_own_with_the_same_strength():
    for label, row in STUDY.rows.items():
        if row.kind in KINDS:
            control = STUDY.rows[row.control]
            assert control.kind == "control"
            given = control.options.get("of_options", control.options)
            assert row.options.items() <= given.items(), label


def test_what_beats_softmax_no_more_than_its_control_is_not_beyond_it():
    kind = "preconditioned"
    found = STUDY.check(table({FIRST[kind]: 0.8, STUDY.rows[FIRST[kind]].control: 0.75})(), SETTINGS)
    by_claim = {verdict.claim: verdict for verdict in found}
    assert by_claim[HELPS[kind].statement].holds
    assert by_claim[BEYOND[kind].statement].outcome == "does not hold"
    assert by_claim[BEYOND["momentum"].statement].outcome == "cannot be tested here"


def test_a_tiny_run_gives_a_table_that_is_checked_and_drawn():
    tiny = dataclasses.replace(
        STUDY.quick.settings, tasks=("sparse",), epochs=2, steps_per_epoch=1, batch=256, n_seeds=2, d=3
    )
    found = STUDY.run(tiny, silent)
    errors = found.only("error").column("error")
    assert len(errors) == 2 * len(STUDY.rows)
    assert np.isfinite(errors).all()
    assert {verdict.claim for verdict in STUDY.check(found, tiny)} == {claim.statement for claim in STUDY.claims}
    assert STUDY.plot(found, tiny).get_axes()


PLANTED = {
    "better-optimizers": [
        *(Planted(HELPS[kind], table(of(kind, 0.8)), table(), SETTINGS) for kind in KINDS),
        *(
            Planted(
                BEYOND[kind],
                table(of(kind, 0.8)),
                # A gain that the control has too.
                table({FIRST[kind]: 0.8, STUDY.rows[FIRST[kind]].control: 0.75}),
                SETTINGS,
            )
            for kind in KINDS
        ),
        Planted(
            BEST,
            table({FIRST["delta rule"]: 0.7}),
            table({FIRST["delta rule"]: 0.7, "negative, k = 1, β = 0.1": 0.6}),
            SETTINGS,
        ),
        Planted(
            TO_THE_END,
            table({"ridge, ρ = 0.9": 0.7, "preconditioned, β = 1": 0.8}),
            table({"ridge, ρ = 0.9": 0.8, "preconditioned, β = 1": 0.8}),
            SETTINGS,
        ),
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
