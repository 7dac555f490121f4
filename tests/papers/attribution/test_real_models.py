"""Scores on real models as a recipe: on small made data of the same layout, and verdicts that follow planted scores."""

from __future__ import annotations

import dataclasses
import json
from functools import cache, partial

import numpy as np
import pytest
import torch
from tests.papers.attribution.real_data import write_real_data
from tests.recipes.planting import Planted, turning

from iclens.errors import UserError
from iclens.lens import Lens
from iclens.lens.model.loading import load
from iclens.lens.scores.faithfulness import lds, random_subsets
from iclens.papers.attribution.comparing import mean
from iclens.papers.attribution.real_models.claims import (
    CLAIMS,
    EIGHT,
    EIGHT_GOAL,
    EIGHT_MORE,
    EIGHT_MORE_GOAL,
    MANY,
    MANY_GOAL,
    MANY_MORE_GOAL,
    MOST,
    MOST_GOAL,
    MOSTLY_FIRST,
    NEVER_LAST,
    SETTLES,
    SETTLES_AHEAD,
    WELL,
    WRONG,
)
from iclens.papers.attribution.real_models.data import answering, missing, read_task, settling_prompts
from iclens.papers.attribution.real_models.labels import accuracy
from iclens.papers.attribution.real_models.rule import default_score
from iclens.papers.attribution.removal import MASKED, PAIRS
from iclens.recipes.contract import RECIPES
from iclens.recipes.table import Table

ENTRY = RECIPES["attribution-real"]
SETTINGS = ENTRY.paper.settings
FEW = ("influence", "rerun", "lasso_margin_16", "label_surprise", "random")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_real_data(tmp_path_factory.mktemp("data") / "data"))


def tiny(folder, **changes):
    few = dict.fromkeys(("methods", "methods_tuning", "methods_long", "methods_labels", "methods_settling"), FEW)
    chosen = {
        "model": "bundled", "data": folder, "tuning": ("free",), "reporting": ("other",), "sizes": (5,),
        "prompts": (1,), "long_size": 8, "long_tasks": ("other",), "long_prompts": 1,
        "heavy": ("shapley_sampling",), "n_heavy": 1,
        "methods_curation": ("influence",), "stable": ("influence",), "n_subsets": (8, 8), "n_ceiling": 1,
        "label_tasks": ("few",), "n_pools": 1, "n_label_queries": 2, "families": ("rules",), "n_settling": 2,
        "n_curation": 1, "n_validation": 2, "n_test": 6,
    }  # fmt: skip
    return dataclasses.replace(SETTINGS, **few | chosen | changes)


@pytest.fixture(scope="module")
def tiny_run(folder):
    return ENTRY.run(tiny(folder))


def test_a_tiny_run_has_every_study_and_is_checked_and_drawn(folder, tiny_run):
    settings = tiny(folder)
    back = Table.from_json_columns(tiny_run.to_columns())
    assert set(back.unique("study")) == {"removal", "wrong labels", "settling", "curation"}
    verdicts = ENTRY.check(back, settings)
    assert [verdict.claim for verdict in verdicts] == [claim.statement for claim in CLAIMS]
    assert set(ENTRY.summaries(back, settings)) >= {"wrong labels: few", "settling: rules", "curation: few"}
    for axes in ENTRY.plot(back, settings).axes:
        assert axes.get_xlabel()
    for kept in ({"size": 5}, {"study": "settling"}):
        some = back.where(**kept)
        assert ENTRY.check(some, settings)
        assert ENTRY.summaries(some, settings)
        assert ENTRY.plot(some, settings).axes
    first = ENTRY.parts(settings)[0]
    timed = [name for name in back.names if name != "seconds"]
    again = ENTRY.measure_part(first, settings)
    for row, other in zip(again, tiny_run, strict=False):
        assert {name: row.get(name) for name in timed} == pytest.approx({name: other.get(name) for name in timed})


def test_lds_is_of_really_shortened_prompts(folder, tiny_run):
    """By the lens's own deletions, with the recipe's seeds."""
    torch.set_default_dtype(torch.float32)
    task, seed = read_task(folder, "free"), 5000
    drawn = task.drawn(torch.Generator().manual_seed(seed + 5), 6)
    asked = task.asked(drawn[:-1], drawn[-1])
    lens = Lens("bundled", asked.prompt, answer=asked.answer)
    subsets = random_subsets(torch.Generator().manual_seed(seed + 1), 8, 5)
    outcome = lens.deletions(subsets)
    (row,) = tiny_run.where(study="removal", task="free", method="influence")
    scores = lens.score("influence").values
    assert row["lds"] == pytest.approx(lds(scores, subsets, outcome.margins))
    assert row["lds_log_p"] == pytest.approx(lds(scores, subsets, outcome.log_probabilities))
    without = lens.rerun([(), (int(scores.argmax()),)])
    assert row["drop_1"] == pytest.approx(float(without.margins[0] - without.margins[1]), abs=1e-4)
    assert {MASKED, PAIRS} <= set(tiny_run.where(study="removal").unique("method"))


def test_methods_pay_for_shared_deletions_as_if_they_were_alone(folder):
    torch.set_default_dtype(torch.float32)
    task = read_task(folder, "free")
    drawn = task.drawn(torch.Generator().manual_seed(0), 6)
    ticks = iter(range(10**6))
    subject = answering(load("bundled"), task.asked(drawn[:-1], drawn[-1]), clock=lambda: float(next(ticks)))
    first, second = (subject.scored([name], 0)[name] for name in ("lasso_margin_16", "lasso_margin_16"))
    alone = Lens("bundled", subject.prompt, readout=subject.readout).score("lasso_margin_16", seed=0)
    assert first.passes == second.passes == pytest.approx(alone.forward_passes)
    torch.testing.assert_close(first.scores.values, alone.values)
    assert torch.equal(first.scores.values, second.scores.values)
    assert len(subject.shortened.outcomes) <= 16
    assert second.seconds >= second.passes * subject.shortened.seconds / subject.shortened.passes
    torch.testing.assert_close(
        subject.deletions(torch.eye(5).bool()).margins,
        Lens("bundled", subject.prompt, readout=subject.readout).deletions(torch.eye(5).bool()).margins,
        rtol=1e-5,
        atol=1e-5,
    )


def test_accuracy_with_a_shared_beginning_is_that_of_whole_prompts(folder):
    torch.set_default_dtype(torch.float32)
    task, model = read_task(folder, "few"), load("bundled")
    drawn = task.drawn(torch.Generator().manual_seed(3), 30)
    right = []
    for query in drawn[6:]:
        asked = task.asked(drawn[:6], query)
        right.append(Lens(model, asked.prompt, answers=task.labels).answer.text == query[1])
    assert accuracy(model, task, drawn[:6], drawn[6:]) == pytest.approx(sum(right) / len(right))


def test_flipped_labels_are_others_and_as_many_as_asked(folder):
    task = read_task(folder, "few")
    flipped, wrong = task.flipped(task.pairs[:10], 3, torch.Generator().manual_seed(0))
    assert sum(wrong) == 3
    for (given, label), (same, other), one in zip(task.pairs, flipped, wrong, strict=False):
        assert given == same
        assert (label != other) == one
    with pytest.raises(UserError, match="has no few labels"):
        read_task(folder, "free").flipped(task.pairs[:10], 3, torch.Generator())


def test_settling_prompts_alternate_between_rules(folder):
    found = list(settling_prompts(folder, "rules"))
    assert len(found) == 16
    assert {asked.answer for asked, _ in found[:2]} == set(found[0][0].labels)
    assert all(len(asked.demonstrations) == 4 and 0 <= settles < 4 for asked, settles in found)


def test_data_that_are_missing_or_broken_are_named(folder, tmp_path):
    assert "data=FOLDER" in ENTRY.lacking(SETTINGS)
    assert "nowhere.json" in missing(folder, ("nowhere",), ())
    assert ENTRY.lacking(tiny(folder)) == ""
    (tmp_path / "icl").mkdir()
    (tmp_path / "icl" / "bad.json").write_text(json.dumps([{"in": 1}]))
    with pytest.raises(UserError, match=r"bad\.json cannot be read"):
        read_task(str(tmp_path), "bad")
    with pytest.raises(UserError, match="has 60 pairs, but 61"):
        read_task(folder, "free").drawn(torch.Generator(), 61)
    with pytest.raises(UserError, match="to tune on or to report"):
        tiny(folder, tuning=("other",))
    with pytest.raises(UserError, match="a number for each"):
        tiny(folder, prompts=(1, 2))


def test_other_data_have_another_digest(folder, tmp_path):
    other = write_real_data(tmp_path / "data", n_pairs=59)
    assert ENTRY.inputs(tiny(folder)) != ENTRY.inputs(tiny(str(other)))


def test_parts_are_by_turns_and_longer_ones_are_estimated_longer(folder):
    settings = tiny(folder, prompts=(3,))
    parts = ENTRY.parts(settings)
    assert len({json.dumps(part) for part in parts}) == len(parts)
    assert [part["number"] for part in parts if part["task"] == "free"] == [0, 1, 2]
    turned = [part["study"] for part in parts if part["number"] == 0]
    assert set(turned) == {"removal", "wrong labels", "settling", "curation"}
    long = dataclasses.replace(settings, long_size=30)
    assert ENTRY.estimate(long, ENTRY.paper) > ENTRY.estimate(settings, ENTRY.paper)


PRESENT = {
    "influence_mirrored": 0.6, "hybrid_8": 0.8, "influence": 0.5, "gradient_step": 0.2, "rerun": 0.5,
    "lasso_margin_16": 0.55, "lasso_margin_32": 0.58, "lasso_margin": 0.57, "lasso_margin_128": 0.58, "random": 0.1,
}  # fmt: skip
COST = {"influence_mirrored": 4, "hybrid_8": 12, "influence": 3, "gradient_step": 1}
FOUND = {"detail": 0.6, "detail_self": 0.6, "label_surprise": 0.7, "label_doubt": 0.9, "random": 0.5}
HITS = {"gradient_norm": 0.4, "influence": 0.9, "random": 0.1}


@cache
def planted(*changes) -> Table:
    """A default that is ahead of everything within its passes; `changes` are (study, size, method, column, value)."""
    draws = np.random.default_rng(0)
    rows = []

    def add(study, task, size, method, **numbers):
        numbers |= {column: value for one, at, name, column, value in changes if (one, name) == (study, method)
                    and at in (None, size)}  # fmt: skip
        for number in range(3):
            noise = 0.001 * draws.standard_normal() if study != "settling" else 0.0
            noisy = {name: value + noise if name in ("lds", "auroc") else value for name, value in numbers.items()}
            rows.append({"study": study, "task": task, "size": size, "number": number, "method": method} | noisy)

    for task in (*SETTINGS.tuning, *SETTINGS.reporting):
        for size in (8, 32, 128):
            for method, value in PRESENT.items():
                cost = COST.get(method, 64)
                add("removal", task, size, method, lds=value, forward=cost, backward=0, seconds=float(cost))
    for task in SETTINGS.label_tasks:
        for method, value in FOUND.items():
            add("wrong labels", task, 20, method, auroc=value)
    for task in SETTINGS.families:
        for method, value in HITS.items():
            add("settling", task, 10, method, hit=value)
    return Table(rows)


def lower(size, method, value):
    return partial(planted, ("removal", size, method, "lds", value))


TURNS = [
    (EIGHT, lower(8, "rerun", 0.7)),
    (EIGHT_GOAL, lower(8, "lasso_margin_16", 0.7)),
    (EIGHT_MORE, lower(8, "lasso_margin_16", 0.9)),
    (EIGHT_MORE_GOAL, lower(8, "lasso_margin_32", 0.9)),
    (MANY, lower(32, "rerun", 0.65)),
    (MANY, lower(32, "lasso_margin_16", 0.61)),
    (MANY_GOAL, lower(32, "lasso_margin_32", 0.7)),
    (MANY_MORE_GOAL, lower(32, "lasso_margin", 0.9)),
    (MOST, lower(128, "lasso_margin", 0.65)),
    (MOST, partial(planted, ("removal", 128, "rerun", "seconds", 20.0))),
    (MOST_GOAL, lower(128, "lasso_margin_128", 0.9)),
    (WRONG, partial(planted, ("wrong labels", None, "label_surprise", "auroc", 0.95))),
    (WELL, partial(planted, ("wrong labels", None, "label_doubt", "auroc", 0.75))),
    (SETTLES, partial(planted, ("settling", None, "gradient_norm", "hit", 0.95))),
    (SETTLES_AHEAD, partial(planted, ("settling", None, "gradient_norm", "hit", 0.9))),
]


def reporting_only(change) -> Table:
    """The planted table with another LDS of the default on the reporting tasks, whose rule looks at the others."""
    return Table(
        row | ({"lds": change} if row["task"] in SETTINGS.reporting and row["method"] == "influence_mirrored" else {})
        for row in planted()
    )


def test_the_default_is_the_best_of_the_tuning_tasks_within_its_passes():
    assert default_score(planted(), SETTINGS.tuning, 8) == "influence_mirrored"
    assert default_score(reporting_only(0.0), SETTINGS.tuning, 8) == "influence_mirrored"
    assert default_score(Table(), SETTINGS.tuning, 8) is None


def test_every_size_has_its_default_and_others_that_of_the_nearest_below():
    better = planted(("removal", 32, "influence", "lds", 0.9))
    rows = Table(row for row in better if row["size"] != 128)
    chosen = {size: default_score(rows, SETTINGS.tuning, size) for size in (2, 8, 31, 32, 128)}
    assert chosen == {2: "influence_mirrored", 8: "influence_mirrored", 31: "influence_mirrored",
                      32: "influence", 128: "influence"}  # fmt: skip


def test_scores_that_are_all_the_same_predict_nothing():
    undefined = planted(("removal", 8, "lasso_margin_16", "lds", float("nan")))
    rows = Table(row for row in undefined if row["size"] == 8)
    assert mean(rows, "lds", "lasso_margin_16").mean == 0
    assert mean(rows, "lds", "rerun").n == mean(rows, "lds", "lasso_margin_16").n


def test_without_a_size_its_claims_are_not_tested():
    rest = Table(row for row in planted() if row["size"] != 128)
    outcomes = {verdict.claim: verdict.outcome for verdict in ENTRY.check(rest, SETTINGS)}
    assert outcomes[MOST.statement] == outcomes[MOST_GOAL.statement] == "cannot be tested here"
    assert outcomes[EIGHT.statement] == "holds"


PLANTED = {
    "attribution-real": [
        *(Planted(claim, planted, absent, SETTINGS) for claim, absent in TURNS),
        Planted(NEVER_LAST, planted, partial(reporting_only, 0.0), SETTINGS),
        Planted(MOSTLY_FIRST, planted, partial(reporting_only, 0.3), SETTINGS),
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
