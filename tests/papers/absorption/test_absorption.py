"""Absorption as a recipe: small made data on the bundled learner, and verdicts that follow planted numbers."""

from __future__ import annotations

import dataclasses
from functools import cache, partial

import pytest
from tests.papers.attribution.real_data import write_real_data
from tests.recipes.planting import Planted, turning

from iclens.absorption.reached import ABSORBED, DISTILLED, LORA, PROMPT, ZERO
from iclens.errors import UserError
from iclens.papers.absorption.claims import (
    ACCURATE,
    BEATS_DISTILLED,
    BEATS_LORA,
    BEATS_ZERO,
    BETTER_THAN_LORA,
    CLAIMS,
    KEEPS,
    LOSSES,
    OFFSET,
    SMALL_RANK,
)
from iclens.papers.absorption.rows import FIRST_ALONE
from iclens.recipes.contract import RECIPES
from iclens.recipes.table import Table

ENTRY = RECIPES["absorb-real"]
SETTINGS = ENTRY.paper.settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_real_data(tmp_path_factory.mktemp("data") / "data"))


def tiny(folder, **changes):
    chosen = {
        "model": "bundled", "data": folder, "tasks": ("few",), "n_draws": 1, "n_shots": 6, "n_fitted": 6,
        "n_held_out": 8, "rank": 2, "ranks": (1,), "numbers": (3,), "lora_steps": 2,
    }  # fmt: skip
    return dataclasses.replace(SETTINGS, **chosen | changes)


def test_a_tiny_run_has_every_way_to_answer_and_is_checked_and_drawn(folder):
    settings = tiny(folder)
    table = ENTRY.run(settings)
    back = Table.from_json_columns(table.to_columns())
    ways = {ZERO, PROMPT, ABSORBED, LORA, DISTILLED, FIRST_ALONE, "rank 1", "prompt of 3", "absorbed of 3"}
    assert set(back.unique("method")) == ways
    assert len(back) == 8 * len(ways)
    assert all(row["divergence"] == 0.0 for row in back.where(method=PROMPT))
    assert [verdict.claim for verdict in ENTRY.check(back, settings)] == [claim.statement for claim in CLAIMS]
    assert set(ENTRY.summaries(back, settings)) == {"few"}
    assert ENTRY.plot(back, settings).axes[0].get_ylabel()
    without = ENTRY.run(tiny(folder, distilled=False, alone=False, numbers=()))
    assert set(without.unique("method")) == {ZERO, PROMPT, ABSORBED, LORA, "rank 1"}
    # A draw is the same whatever other draws and tasks are asked for.
    assert ENTRY.bearing(ENTRY.parts(settings)[0], settings) == settings
    more = tiny(folder, n_draws=3, tasks=("few", "many"))
    assert {ENTRY.bearing(part, more).tasks for part in ENTRY.parts(more)} == {("few",), ("many",)}
    assert {ENTRY.bearing(part, more).n_draws for part in ENTRY.parts(more)} == {1}
    # The same draw, whatever else is measured.
    own, other = ([row["log_loss"] for row in one.where(method=ABSORBED)] for one in (table, without))
    assert own == other


@pytest.mark.parametrize(
    "changes",
    [
        {"tasks": ("antonym",)},
        {"n_shots": 1},
        {"n_draws": 0},
        {"numbers": (12,)},
        {"rank": 0},
        {"ranks": (0,)},
        {"lora_steps": 0},
    ],
)
def test_settings_that_do_not_fit_are_refused(changes):
    with pytest.raises(UserError):
        dataclasses.replace(SETTINGS, **changes)


def test_a_folder_without_the_data_is_told(tmp_path):
    assert "lacks" in ENTRY.lacking(tiny(str(tmp_path)))
    assert "data=FOLDER" in ENTRY.lacking(tiny(""))


NUMBERS = {
    ZERO: (3.0, 2.0, 0.2), PROMPT: (0.0, 0.5, 0.85), ABSORBED: (0.2, 0.52, 0.84), "rank 1": (0.8, 0.7, 0.8),
    LORA: (0.6, 0.9, 0.7), DISTILLED: (0.4, 0.8, 0.75), FIRST_ALONE: (5.0, 4.0, 0.1),
}  # fmt: skip
COLUMNS = ("divergence", "log_loss", "accuracy")


@cache
def planted(*changes):
    """Ten queries of every task; `changes` are (method, column, value)."""
    told = {(method, column): value for method, column, value in changes}
    rows = [
        {"study": "absorbing", "task": task, "size": 12, "number": 0, "prompt": query, "method": method, "tokens": 9.0}
        | {
            column: told.get((method, column), value) + 0.001 * (query - 4.5)
            for column, value in zip(COLUMNS, values, strict=True)
        }
        for task in SETTINGS.tasks
        for query in range(10)
        for method, values in NUMBERS.items()
    ]
    return Table(rows)


def changed(*change):
    return partial(planted, change)


TURNS = [
    (KEEPS, changed(ZERO, "divergence", 0.9), ()),
    (ACCURATE, changed(ABSORBED, "accuracy", 0.82), ()),
    (LOSSES, changed(ABSORBED, "log_loss", 0.56), ()),
    (BEATS_ZERO, changed(ZERO, "log_loss", 0.51), ()),
    (SMALL_RANK, changed("rank 1", "divergence", 1.9), ()),
    (BEATS_LORA, changed(LORA, "divergence", 0.15), ()),
    (BETTER_THAN_LORA, changed(LORA, "log_loss", 0.51), ()),
    (BEATS_DISTILLED, changed(DISTILLED, "divergence", 0.15), ()),
    (OFFSET, changed(FIRST_ALONE, "divergence", 1.0), ()),
]
PLANTED = {"absorb-real": [Planted(claim, planted, absent, SETTINGS, also=None) for claim, absent, _ in TURNS]}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
