"""Table 1 as a recipe: planted gains are found and conditions say what the data are."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from tests.recipes.planting import Planted

from iclens.recipes import finetune_table
from iclens.recipes.finetune import ROWS
from iclens.recipes.finetune_table import FinetuneTable, TableSettings
from iclens.recipes.table import Table

RECIPE = FinetuneTable()
SETTINGS = RECIPE.quick.settings


def planted(gains, generated=True, n_seeds=6):
    draws = np.random.default_rng(0)
    common = 0.5 + 0.05 * draws.standard_normal(n_seeds)
    return Table(
        {
            "task": "cola",
            "row": row,
            "seed": seed,
            "score": common[seed] + gains.get(row, 0.0) + 0.01 * draws.standard_normal(),
            "title": "CoLA",
            "kind": ROWS[row].kind,
            "generated": generated,
        }
        for row in SETTINGS.rows
        for seed in range(n_seeds)
    )


def outcomes(gains, generated=True):
    return [verdict.outcome for verdict in RECIPE.check(planted(gains, generated), SETTINGS)]


def test_without_a_gain_nothing_holds():
    assert outcomes({}) == ["does not hold"] * 3


def test_a_gain_holds_and_generated_data_are_named():
    assert outcomes({"augmented g1&g2": 0.2}) == ["holds under"] * 3
    found = RECIPE.check(planted({"augmented g1&g2": 0.2}), SETTINGS)
    assert all("not GLUE" in verdict.condition for verdict in found)
    real = RECIPE.check(planted({"augmented g1&g2": 0.2}, generated=False), SETTINGS)
    assert [verdict.condition for verdict in real] == ["", "it is augmented on CoLA", ""]


def test_a_gain_that_a_control_has_too_is_not_beyond_it():
    gains = {"augmented g1&g2": 0.2, "control parameters g1&g2": 0.2}
    assert outcomes(gains)[0] == "holds under"
    assert outcomes(gains)[2] == "does not hold"


def test_a_control_never_is_the_best_row():
    assert outcomes({"control scale 0.5": 0.3}) == ["does not hold"] * 3


@pytest.mark.parametrize("preset", [RECIPE.quick, RECIPE.paper])
def test_every_named_row_exists(preset):
    assert set(preset.settings.rows) <= set(ROWS)


def test_missing_data_cannot_be_tested_and_say_why(tmp_path):
    settings = TableSettings(data=str(tmp_path / "nowhere"), tasks=("cola",), rows=("original",))
    table = RECIPE.run(settings)
    found = RECIPE.check(table, settings)
    assert [verdict.outcome for verdict in found] == ["cannot be tested here"] * 3
    assert "nowhere" in found[0].untested
    assert RECIPE.plot(table, settings).axes


def test_a_tiny_run_trains_every_row_from_the_same_data(monkeypatch):
    asked = []

    def train(backbone, data, row, seed, settings):
        from iclens.training.finetune import Run

        asked.append((backbone, data.title, row.name, seed, settings.n_steps))
        scores = {"matthews": 0.1 * seed}
        return type("Made", (), {"scores": scores, "diverged": False, "run": Run})()

    monkeypatch.setattr(finetune_table, "_backbone", lambda model, layers: "an encoder")
    monkeypatch.setattr(finetune_table, "train", train)
    table = RECIPE.run(SETTINGS)
    assert len(asked) == len(SETTINGS.rows) * SETTINGS.n_seeds
    assert {one[1] for one in asked} == {"CoLA (generated)"}
    assert {one[4] for one in asked} == {SETTINGS.steps}
    assert len(RECIPE.check(table, SETTINGS)) == 3
    figure = RECIPE.plot(Table.from_json_columns(table.to_columns()), SETTINGS)
    assert "GENERATED" in figure.axes[0].get_title()


PLANTED = {
    "ren-liu-table-1": [
        Planted(claim, partial(planted, {"augmented g1&g2": 0.2}), partial(planted, {}), SETTINGS)
        for claim in RECIPE.claims
    ]
}
