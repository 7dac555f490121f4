"""Table 1 as a recipe: planted gains are found and conditions say what the data are."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from tests.recipes.one_recipe import reproduce
from tests.recipes.planting import Planted, turning

from iclens.papers.ren_liu_2024.table_1.recipe import FinetuneTable, TableSettings
from iclens.papers.ren_liu_2024.table_1.rows import ROWS, TYPES
from iclens.recipes.contract import Preset
from iclens.recipes.seed_curves import seed_mean
from iclens.recipes.table import Table

RECIPE = FinetuneTable()
SETTINGS = RECIPE.quick.settings


def planted(gains, generated=True, n_seeds=SETTINGS.n_seeds, draw=0):
    draws = np.random.default_rng(draw)
    common = 0.5 + 0.05 * draws.standard_normal(n_seeds)
    rows = []
    for name in SETTINGS.rows:
        for seed in range(n_seeds):
            score = common[seed] + gains.get(name, 0.0) + 0.01 * draws.standard_normal()
            named = {"task": "cola", "row": name, "seed": seed}
            kind = {"title": "CoLA", "kind": ROWS[name].kind, "generated": generated}
            rows.append({**named, **kind, "score": score})
            for fold in range(4):
                chooses, reports = score + 0.01 * draws.standard_normal(2)
                rows.append({**named, "fold": fold, "chooses": chooses, "reports": reports})
    return Table(rows)


def outcomes(gains, generated=True):
    return [verdict.outcome for verdict in RECIPE.check(planted(gains, generated), SETTINGS)]


def test_a_gain_holds_and_generated_data_are_named():
    assert outcomes({"augmented g1&g2": 0.2}) == ["holds under"] * 3
    found = RECIPE.check(planted({"augmented g1&g2": 0.2}), SETTINGS)
    assert all("not GLUE" in verdict.condition for verdict in found)
    real = RECIPE.check(planted({"augmented g1&g2": 0.2}, generated=False), SETTINGS)
    assert [verdict.condition for verdict in real] == ["", "it is augmented on CoLA", ""]


def test_a_gain_that_a_control_has_too_is_not_beyond_it():
    gains = {"augmented g1&g2": 0.2, "control parameters g1&g2": 0.22}
    assert outcomes(gains)[0] == "holds under"
    assert outcomes(gains)[2] == "does not hold"


def test_a_gain_on_the_examples_that_chose_is_not_enough():
    found = planted({"augmented g1&g2": 0.2})
    luck = Table({**row, "reports": 0.5} if "fold" in row and row["fold"] is not None else row for row in found)
    verdicts = RECIPE.check(luck, SETTINGS)
    assert [verdict.outcome for verdict in verdicts] == ["does not hold"] * 3


@pytest.mark.parametrize("draw", [121, 355])
def test_the_best_of_many_rows_has_to_be_better_than_luck(draw):
    """Draws without any effect in which the best row's plain interval over the best control lies above 0."""
    table = planted({}, draw=draw)
    scores = {name: table.where(row=name).only("score").column("score") for name in SETTINGS.rows}
    control, best = (
        max((name for name in scores if ROWS[name].kind in kinds), key=lambda name: scores[name].mean())
        for kinds in (("control",), TYPES)
    )
    assert seed_mean(scores[best] - scores[control]).low > 0
    beyond = RECIPE.check(table, SETTINGS)[2]
    assert f"{best} minus {control}" in beyond.numbers
    assert beyond.outcome == "does not hold"


def test_a_control_never_is_the_best_row():
    assert outcomes({"control scale 0.5": 0.3}) == ["does not hold"] * 3


@pytest.mark.parametrize("preset", RECIPE.presets.values())
def test_every_named_row_exists(preset):
    assert set(preset.settings.rows) <= set(ROWS)


def test_what_lacks_its_data_is_not_run_says_why_and_is_tried_again(tmp_path):
    folder = tmp_path / "glue"
    settings = TableSettings(data=str(folder), tasks=("cola",), rows=("original",), n_seeds=1)

    class Lacking(FinetuneTable):
        quick = Preset(settings, seconds=1.0)

    class Found(Lacking):
        def data(self, task, settings):
            return task

        def inputs(self, settings):
            return "the sentences"

        def measure(self, part, settings, progress):
            return Table([{"score": 1.0}])

    made = reproduce(Lacking(), "quick", tmp_path)
    assert [verdict.outcome for verdict in made.verdicts()] == ["cannot be tested here"] * 3
    assert "glue" in made.not_run
    made = reproduce(Found(), "quick", tmp_path, resume=True)
    assert (made.not_run, len(made.table)) == ("", 1)


def test_a_tiny_run_trains_every_row_from_the_same_data():
    asked = []

    def train(backbone, data, row, seed, settings, device):
        asked.append((backbone, data.title, row.name, seed, settings.n_steps))
        predictions = [float((index + seed) % 2) for index in range(len(data.validation))]
        return SimpleNamespace(scores={"matthews": 0.1 * seed}, diverged=False, predictions=predictions, n_parameters=1)

    class Told(FinetuneTable):
        trained = staticmethod(train)

        def backbone(self, settings):
            return "an encoder"

    table = Told().run(SETTINGS)
    assert len(asked) == len(SETTINGS.rows) * SETTINGS.n_seeds
    assert {one[1] for one in asked} == {"CoLA (generated)"}
    assert {one[4] for one in asked} == {SETTINGS.steps}
    assert len(RECIPE.check(table, SETTINGS)) == 3
    figure = RECIPE.plot(Table.from_json_columns(table.to_columns()), SETTINGS)
    assert "GENERATED" in figure.axes[0].get_title()


def test_a_run_belongs_to_its_task_row_and_seed_alone():
    whole = RECIPE.more["small"].settings
    fewer = replace(whole, tasks=("mrpc",), rows=("negative k=1 β=0.1",), n_seeds=1)
    parts = RECIPE.parts(fewer)
    assert [part["row"] for part in parts] == ["original", "negative k=1 β=0.1"]
    for part in parts:
        assert part in RECIPE.parts(whole)
        assert RECIPE.bearing(part, fewer) == RECIPE.bearing(part, whole)
        assert RECIPE.bearing(part, whole) != RECIPE.bearing(part, replace(whole, steps=whole.steps + 1))


def test_the_estimate_is_the_sum_of_its_parts_and_each_kind_is_timed_once_a_task():
    asked = []

    def clock(backbone, data, row, settings, device):
        asked.append((data.task.name, row.kind, row.variant, settings.n_steps))
        return 10.0 if data.task.name == "cola" else 1.0

    class Told(FinetuneTable):
        timed = staticmethod(clock)

        def backbone(self, settings):
            return "an encoder"

    rows = ("negative", "control scale 0.5", "control scale 0.9", "control parameters g1")
    settings = replace(SETTINGS, tasks=("cola", "rte"), rows=rows, n_seeds=3, steps=7)
    by_part = Told().seconds_by_part(settings, Told.quick)
    assert len(by_part) == len(Told().parts(settings)) == 2 * 3 * 8
    # The original, negatives, and the controls of two variants.
    assert len(asked) == len(set(asked)) == 2 * 4
    assert {one[3] for one in asked} == {7}
    assert Told().estimate(settings, Told.quick) == sum(by_part) == pytest.approx(3 * 8 * (10 + 1))


_GAIN = partial(planted, {"augmented g1&g2": 0.2})
PLANTED = {
    "ren-liu-table-1": [
        Planted(claim, gain, partial(planted, {}), SETTINGS)
        for claim in RECIPE.claims
        # A row that is far worse does not hide it.
        for gain in (_GAIN, partial(planted, {"augmented g1&g2": 0.2, "regularized α=-0.5": -0.4}))
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
