"""The study of the patches on a real model: a tiny run on the bundled learner, and verdicts that can go either way."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
from tests.papers.attribution.real_data import write_real_data
from tests.recipes.planting import Planted, turning

from iclens.errors import UserError
from iclens.papers.attribution.patches.claims import CHEAPLY, CLAIMS, PARTS, RANKS, SAME, TELLS, WHOLE
from iclens.papers.attribution.patches.recipe import PatchSettings
from iclens.recipes.contract import RECIPES
from iclens.recipes.table import Table

ENTRY = RECIPES["patch-real"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = str(write_real_data(tmp_path_factory.mktemp("data") / "data"))
    return PatchSettings(model="bundled", data=folder, tasks=("free", "few"), size=5, prompts=1, n_subsets=8,
                         methods=("patch", "influence", "influence_deletions", "random"))  # fmt: skip


@pytest.fixture(scope="module")
def table(settings):
    return ENTRY.run(settings)


def verdicts(table):
    return dict(zip(CLAIMS, ENTRY.check(table, PatchSettings()), strict=True))


def test_a_tiny_run_is_exact_and_judged_summed_up_and_drawn(settings, table):
    found = verdicts(table)
    assert found[SAME].holds
    assert "over 2 prompts" in found[SAME].numbers
    for row in table.where(method=WHOLE):
        shares = [row[f"{name}_share"] for name in ("part", "displaced", "rest", "states", "norms")]
        assert sum(shares) == pytest.approx(1.0, abs=1e-4)
    summaries = ENTRY.summaries(table, settings)
    assert {"5 demonstrations, all tasks", "5 demonstrations, free", "5 demonstrations, few", "the updates"} == set(
        summaries
    )
    assert ENTRY.plot(table, settings).axes[0].get_ylabel() == "LDS"


PRESENT = {"patch": 0.6, "influence": 0.6, "influence_deletions": 0.6, "random": 0.1}


def planted(whole=None, **lds) -> Table:
    """Ten prompts whose patches rank as well as all else; `whole` and `lds` change numbers of the patches or scores."""
    rows = made(**{**PRESENT, **lds})
    return Table(row | (whole or {} if row["method"] == WHOLE else {}) for row in rows)


def made(**lds):
    """Ten prompts with the same LDS of each method, and patches that are exact and half the demonstrations'."""
    about = {"study": "removal", "task": "free", "size": 5}
    whole = {"off": 1e-6, "part_share": 0.6, "displaced_share": 0.3, "norms_share": 0.1}
    rows = [about | {"number": i, "method": WHOLE} | whole for i in range(10)]
    rows += [about | {"number": i, "method": name, "lds": value} for i in range(10) for name, value in lds.items()]
    return rows


def test_verdicts_follow_the_numbers():
    found = verdicts(Table(made(patch=0.6, influence=0.62, influence_deletions=0.7, random=0.1)))
    assert [found[claim].holds for claim in CLAIMS] == [True, True, True, False, True]
    worse = [
        row | ({"off": 1e-3, "part_share": 0.4} if row["method"] == WHOLE else {})
        for row in made(patch=-0.1, random=0.0)
    ]
    found = verdicts(Table(worse))
    assert not found[SAME].holds
    assert not found[PARTS].holds
    assert not found[TELLS].holds
    assert found[RANKS].outcome == found[CHEAPLY].outcome == "cannot be tested here"


def test_settings_that_measure_nothing_are_refused(settings):
    for change, message in (
        ({"tasks": ()}, "nothing to measure"),
        ({"prompts": 0}, "nothing to measure"),
        ({"size": 1}, "at least 2 demonstrations"),
        ({"methods": ("patches",)}, "patches"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(settings, **change)
    assert "named by data=FOLDER" in ENTRY.lacking(PatchSettings())


TURNS = [
    (SAME, {"whole": {"off": 1e-3}}),
    (PARTS, {"whole": {"part_share": 0.4}}),
    (RANKS, {"influence": 0.9}),
    (CHEAPLY, {"influence_deletions": 0.9}),
    (TELLS, {"random": 0.8}),
]
PLANTED = {"patch-real": [Planted(claim, planted, partial(planted, **absent), also=()) for claim, absent in TURNS]}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
