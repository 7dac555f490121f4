"""Heads of a language model as a recipe: a run on the bundled learner, and verdicts that follow planted numbers."""

from __future__ import annotations

import dataclasses
from functools import partial

import matplotlib
import numpy as np
import pytest
import torch
from tests.papers.attribution.real_data import write_real_data
from tests.recipes.planting import Planted, turning

from iclens import Lens
from iclens.errors import UserError
from iclens.lens import HEAD_COLUMNS
from iclens.papers.real_heads.prompts import asked, model_of
from iclens.papers.real_heads.statistics import medians
from iclens.papers.real_heads.statistics_claims import APART, CLAIMS, DRAINED, LEFT_OUT, MOVED, NEARER, SINKS
from iclens.recipes.contract import RECIPES
from iclens.recipes.table import Table

ENTRY = RECIPES["heads-real"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_real_data(tmp_path_factory.mktemp("data") / "data"))


def tiny(folder, **changes):
    chosen = {"model": "bundled", "data": folder, "tasks": ("few", "free"), "n_prompts": 2, "n_demonstrations": 3}
    return dataclasses.replace(ENTRY.quick.settings, **chosen | changes)


@pytest.fixture(scope="module")
def tiny_run(folder):
    return ENTRY.run(tiny(folder))


def test_a_tiny_run_has_a_row_a_head_and_is_checked_and_drawn(folder, tiny_run):
    matplotlib.use("Agg")
    settings, back = tiny(folder), Table.from_json_columns(tiny_run.to_columns())
    assert len(back) == 2 * 2 * 4 * 2
    assert set(HEAD_COLUMNS) <= set(back.names)
    verdicts = ENTRY.check(back, settings)
    assert [one.claim for one in verdicts] == [claim.statement for claim in CLAIMS]
    assert verdicts[0].outcome == "holds"
    # The learner may have no sinks, and then their values cannot be measured.
    assert {one.outcome for i, one in enumerate(verdicts) if i != 4} <= {"holds", "does not hold"}
    (title,) = ENTRY.summaries(back, settings)
    assert ENTRY.summaries(back, settings)[title].column("layer").tolist() == [0, 1, 2, 3]
    assert sum(bool(ax.get_title()) for ax in ENTRY.plot(back, settings).axes) == 6
    for some in (Table(), Table({"layer": row["layer"], "head": row["head"]} for row in back)):
        assert len(ENTRY.check(some, settings)) == len(CLAIMS)
        ENTRY.summaries(some, settings)
        ENTRY.plot(some, settings)


def test_a_row_is_what_the_lens_says_of_the_prompt(folder, tiny_run):
    settings = tiny(folder)
    torch.set_default_dtype(torch.float32)
    prompt = asked({"task": "free", "number": 1}, settings)
    found = Lens(model_of(settings), prompt.prompt).head_statistics(ridge=settings.ridge)
    rows = list(tiny_run.where(task="free", number=1))
    for row, own in zip(rows, found.to_rows(), strict=True):
        assert row["end_distance"] == pytest.approx(own["end_distance"], rel=1e-4)
        assert row["n_effective"] == pytest.approx(own["n_effective"], rel=1e-5)


def test_medians_over_prompts_take_infinite_times_and_missing_numbers():
    table = Table(
        {"number": n, "layer": layer, "head": 0, "nearest_time": time}
        for layer, times in enumerate(([1.0, np.inf, np.inf], [1.0, 2.0, np.inf], [None, 3.0, 4.0]))
        for n, time in enumerate(times)
    )
    assert medians(table)["nearest_time"].ravel().tolist() == [np.inf, 2.0, 3.0]
    assert set(medians(table)) == {"nearest_time"}


@pytest.mark.parametrize("changes", [{"ridge": 0.0}, {"n_left_out": -1}, {"tasks": ()}])
def test_settings_that_do_not_fit_are_refused(changes):
    with pytest.raises(UserError):
        dataclasses.replace(ENTRY.paper.settings, **changes)


def planted(*, left_out=1e-15, one_step=0.1, end=0.5, first=0.9, length=0.1, apart=0.8):
    return Table(
        {
            "task": "few", "number": number, "layer": layer, "head": head, "left_out_residual": left_out,
            "one_step_distance": one_step + 0.01 * number, "end_distance": end, "nearest_time": 1.0, "condition": 9.0,
            "first_weight": first if layer else 0.0, "first_length": length, "relative_disagreement": apart,
        }
        for number in range(3)
        for layer in range(3)
        for head in range(4)
    )  # fmt: skip


PLANTED = {
    "heads-real": [
        Planted(claim, planted, partial(planted, **changes), also=also)
        for claim, changes, also in (
            (LEFT_OUT, {"left_out": 1e-6}, ()),
            (NEARER, {"one_step": 0.6}, ()),
            (MOVED, {"end": 0.05, "one_step": 0.0}, ()),
            (SINKS, {"first": 0.4}, None),
            (DRAINED, {"length": 0.7}, ()),
            (APART, {"apart": 0.3}, ()),
        )
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
