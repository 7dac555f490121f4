"""Verdicts of the variant studies follow the numbers: planted differences are found, and their absence too."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from tests.recipes.planting import Planted, turning

from iclens.papers.ren_liu_2024.negatives import BEYOND as NEGATIVES_BEYOND
from iclens.papers.ren_liu_2024.negatives import LOWEST, MATTERS
from iclens.papers.ren_liu_2024.variants import BEYOND as CURVES_BEYOND
from iclens.papers.ren_liu_2024.variants import HELPS
from iclens.recipes.best_of_many import over_seeds
from iclens.recipes.contract import RECIPES, silent
from iclens.recipes.table import Table

STUDIES = ("ren-liu-fig-3-right", "ren-liu-negatives")


def planted(study, settings, factors: dict[str, float]) -> Table:
    """Errors of every row: normal's with noise of each row's own, times the row's factor."""
    draws = np.random.default_rng(0)
    common = 1 + 0.1 * draws.standard_normal(settings.n_seeds)
    return Table(
        {
            "task": task,
            "row": row,
            "seed": seed,
            "error": factors.get(row, 1.0) * common[seed] * (1 + 0.02 * draws.standard_normal()),
        }
        for task in settings.tasks
        for row in study.rows
        for seed in range(settings.n_seeds)
    )


def outcomes(study, factors):
    settings = study.quick.settings
    return {verdict.claim: verdict for verdict in study.check(planted(study, settings, factors), settings)}


def test_a_row_that_is_better_wins_and_no_other_kind_does():
    study = RECIPES["ren-liu-fig-3-right"]
    found = outcomes(study, {"k = 3, β = 0.5": 0.8})
    by_kind = {kind: next(v for c, v in found.items() if kind in c) for kind in study.kinds()}
    assert [by_kind[kind].outcome for kind in ("regularised", "augmented", "negative")] == [
        "does not hold",
        "does not hold",
        "holds",
    ]
    assert next(v for c, v in found.items() if "beyond" in c).holds


def test_a_row_that_is_far_worse_does_not_hide_one_that_is_better():
    study = RECIPES["ren-liu-fig-3-right"]
    found = outcomes(study, {"k = 3, β = 0.5": 0.9, "α = −0.5": 20.0})
    assert next(v for c, v in found.items() if "negative" in c).holds


def test_without_differences_nothing_wins_and_the_control_question_is_void():
    found = list(outcomes(RECIPES["ren-liu-fig-3-right"], {}).values())
    assert [verdict.outcome for verdict in found] == ["does not hold"] * 3 + ["cannot be tested here"]


def test_better_than_random_on_one_task_of_many_by_chance_is_not_better():
    """A paired gain whose own 95 % interval is above 0, and not when it is made for all tasks."""
    study = RECIPES["ren-liu-negatives"]
    settings = study.quick.settings
    n, n_tasks = settings.n_seeds, len(settings.tasks)
    draws = np.random.default_rng(0).standard_normal(n)
    t = [float(stats.t.ppf(1 - 0.025 / k, n - 1)) for k in (1, n_tasks)]
    # Student's t of the gain lies halfway between the two quantiles.
    gain = 0.01 * ((draws - draws.mean()) / draws.std(ddof=1) * n**0.5 + sum(t) / 2)
    rows = []
    for row in planted(study, settings, {}):
        if row["row"] in ("lowest", "random"):
            lower = row["row"] == "lowest" and row["task"] == settings.tasks[0]
            row |= {"error": 1.0 - (gain[row["seed"]] if lower else 0.0)}
        rows.append(row)
    assert over_seeds(torch.from_numpy(gain)).low > 0
    assert not study.check(Table(rows), settings)[1].holds


@pytest.mark.parametrize("name", STUDIES)
def test_a_tiny_run_gives_a_table_that_is_checked_and_drawn(name):
    study = RECIPES[name]
    settings = dataclasses.replace(
        study.quick.settings, tasks=("classes",), epochs=2, steps_per_epoch=1, batch=256, n_seeds=3, d=3
    )
    table = study.run(settings, silent)
    assert len(table.only("error")) == 3 * len(study.rows)
    assert np.isfinite(table.only("error").column("error")).all()
    assert {verdict.claim for verdict in study.check(table, settings)} == {claim.statement for claim in study.claims}
    assert study.plot(table, settings).get_axes()


_CURVES, _NEGATIVES = (RECIPES[name] for name in STUDIES)
_BEST = {"regularised": "α = −0.5", "augmented": "g1 & g2", "negative": "k = 3, β = 0.5"}


def _table(study, factors=None):
    return partial(planted, study, study.quick.settings, factors or {})


PLANTED = {
    "ren-liu-fig-3-right": [
        *(Planted(claim, _table(_CURVES, {_BEST[kind]: 0.8}), _table(_CURVES)) for kind, claim in HELPS.items()),
        Planted(
            CURVES_BEYOND,
            _table(_CURVES, {"α = −0.5": 0.8}),
            # A gain that a control has too.
            _table(_CURVES, {"α = −0.5": 0.8, "scale 1.5": 0.75}),
            also=(),
        ),
    ],
    "ren-liu-negatives": [
        *(Planted(claim, _table(_NEGATIVES, {"lowest": 0.7}), _table(_NEGATIVES)) for claim in (MATTERS, LOWEST)),
        Planted(
            NEGATIVES_BEYOND,
            _table(_NEGATIVES, {"lowest": 0.7}),
            _table(_NEGATIVES, {"lowest": 0.7, "scale 0.5": 0.65}),
        ),
    ],
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
