"""Selection as a recipe: small made data on the bundled learner, and verdicts that follow planted accuracies."""

from __future__ import annotations

import dataclasses
import json
from functools import cache, partial

import pytest
import torch
from tests.papers.attribution.real_data import write_real_data
from tests.recipes.planting import Planted, turning

from iclens.errors import UserError
from iclens.lens.model.loading import load
from iclens.papers.attribution.real_models.data import read_task
from iclens.papers.selection.claims import (
    BEST,
    BEST_GOAL,
    CHANCE_CLAIM,
    CHOICE,
    CLAIMS,
    FINDS,
    FINDS_MORE,
    MENDED,
    MENDING,
    PRUNED,
    PRUNED_GOAL,
)
from iclens.papers.selection.pools import ALL, CHANCE, CLEAN, DOUBT, SURPRISE, TRUTH, choice_rows
from iclens.recipes.contract import RECIPES
from iclens.recipes.table import Table

ENTRY = RECIPES["select-real"]
SETTINGS = ENTRY.paper.settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_real_data(tmp_path_factory.mktemp("data") / "data"))


def tiny(folder, **changes):
    chosen = {
        "model": "bundled", "data": folder, "tasks": ("few",), "n_pools": 1, "pool": 8, "k": 3, "n_dev": 6,
        "n_test": 8, "budget": 20.0, "methods": ("influence", "random"), "n_chance": 2, "n_mended": 1,
        "mended_pool": 8, "n_wrong": 2,
    }  # fmt: skip
    return dataclasses.replace(SETTINGS, **chosen | changes)


@pytest.fixture(scope="module")
def tiny_run(folder):
    return ENTRY.run(tiny(folder))


def test_a_tiny_run_has_both_studies_and_is_checked_and_drawn(folder, tiny_run):
    settings = tiny(folder)
    back = Table.from_json_columns(tiny_run.to_columns())
    assert set(back.unique("study")) == {CHOICE, MENDING}
    assert [verdict.claim for verdict in ENTRY.check(back, settings)] == [claim.statement for claim in CLAIMS]
    assert set(ENTRY.summaries(back, settings)) == {"choosing: few", "mending: few"}
    assert ENTRY.plot(back, settings).axes[0].get_ylabel()
    for kept in (CHOICE, MENDING):
        some = back.where(study=kept)
        assert ENTRY.check(some, settings)
        assert ENTRY.summaries(some, settings)
        assert ENTRY.plot(some, settings).axes


def test_every_prompt_is_of_its_size_and_the_rival_spends_no_more(folder, tiny_run):
    rows = {row["method"]: row for row in tiny_run.where(study=CHOICE)}
    assert set(rows) == {"influence", "random", CHANCE, ALL}
    assert (rows["influence"]["shots"], rows["random"]["shots"], rows[ALL]["shots"]) == (3, 3, 8)
    assert rows["random"]["passes"] <= rows["influence"]["passes"] <= 1.3 * 20.0
    mended = {row["method"]: row for row in tiny_run.where(study=MENDING)}
    assert set(mended) >= {ALL, CLEAN, TRUTH, DOUBT, SURPRISE, "influence", "one_at_a_time"}
    assert mended[TRUTH]["found"] == 2.0
    assert mended[ALL]["found"] == 0.0
    assert all(mended[name]["shots"] == 6 for name in (TRUTH, DOUBT, SURPRISE, "influence", "one_at_a_time"))


def test_a_pool_is_its_seed_and_the_whole_pool_answers_as_the_model_does(folder):
    """The accuracy of the whole pool, by the model's own logits of the labels' tokens."""
    torch.set_default_dtype(torch.float32)
    model, task, settings = load("bundled"), read_task(folder, "few"), tiny(folder)
    rows, again = (choice_rows(model, task, settings, 3) for _ in range(2))
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in again]
    pairs = task.drawn(torch.Generator().manual_seed(3), 8 + 6 + 8)
    pool, test = pairs[:8], pairs[14:]
    right = []
    for query in test:
        text = task.asked(pool, query).prompt.text
        ids = model.tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = model.model(input_ids=ids).logits[0, -1]
        firsts = [model.tokenizer(f"{text} {label}").input_ids[ids.shape[1]] for label in task.labels]
        right.append(task.labels[int(logits[firsts].argmax())] == query[1])
    (row,) = [row for row in rows if row["method"] == ALL]
    assert row["accuracy"] == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize(
    "changes", [{"methods": ("telepathy",)}, {"methods": ()}, {"k": 40}, {"n_wrong": 20}, {"n_dev": 1}]
)
def test_settings_that_do_not_fit_are_refused(changes):
    with pytest.raises(UserError):
        dataclasses.replace(SETTINGS, **changes)


def test_entailment_is_read_in_both_layouts(tmp_path):
    (tmp_path / "icl" / "cb").mkdir(parents=True)
    (tmp_path / "selection" / "superglue-rte").mkdir(parents=True)
    row = {"premise": "It rained.", "hypothesis": "it rained.", "label": "entailment"}
    for part, label in (("train", "entailment"), ("val", "neutral")):
        told = json.dumps(row | {"label": label, "premise": f"It {part}ed."})
        (tmp_path / "icl" / "cb" / f"{part}.jsonl").write_text(f"{told}\n\n")
    for i, part in enumerate(("train", "dev", "test")):
        told = json.dumps({"input": f"A {i}. [SEP] B.", "output": "true" if i else "false"})
        (tmp_path / "selection" / "superglue-rte" / f"{part}.jsonl").write_text(told)
    assert read_task(str(tmp_path), "cb").pairs == (
        ("It trained.\nQuestion: it rained.", "true"),
        ("It valed.\nQuestion: it rained.", "neither"),
    )
    assert list(read_task(str(tmp_path), "superglue-rte").pairs) == [
        (f"A {i}.\nQuestion: B.", "true" if i else "false") for i in range(3)
    ]
    (tmp_path / "icl" / "cb" / "val.jsonl").write_text('{"premise": "x"}\n')
    read_task.cache_clear()
    with pytest.raises(UserError, match=r"val\.jsonl cannot be read"):
        read_task(str(tmp_path), "cb")


def test_a_dtype_that_is_not_offered_is_refused():
    with pytest.raises(UserError, match="dtype is float32 or bfloat16, not 'float16'"):
        dataclasses.replace(SETTINGS, dtype="float16")


ACCURACY = {"influence": 0.85, "random": 0.82, CHANCE: 0.7, ALL: 0.855}
MENDED_ACCURACY = {DOUBT: 0.85, SURPRISE: 0.8, "one_at_a_time": 0.8, CLEAN: 0.855}


@cache
def planted(*changes):
    """Pools of every task; `changes` are (study, method, column, value)."""
    rows = []
    for study, accuracies in ((CHOICE, ACCURACY), (MENDING, MENDED_ACCURACY)):
        for task in SETTINGS.tasks:
            for number in range(4):
                for method, accuracy in accuracies.items():
                    row = {
                        "study": study, "task": task, "size": 32, "number": number, "method": method,
                        "accuracy": accuracy, "log_loss": 0.4, "passes": 40.0, "seconds": 1.0,
                        "tokens": 1000.0 if method == ALL else 250.0, "backward_elimination": 1000.0,
                        "found": {DOUBT: 4.0}.get(method, 3.0),
                    }  # fmt: skip
                    for *where, column, value in changes:
                        if where == [study, method]:
                            row[column] = value
                    rows.append(row)
    return Table(rows)


def changed(study, method, column, value):
    return partial(planted, (study, method, column, value))


TURNS = [
    (CHANCE_CLAIM, changed(CHOICE, CHANCE, "accuracy", 0.86), ()),
    (BEST, changed(CHOICE, "random", "accuracy", 0.851), (BEST_GOAL,)),
    (BEST_GOAL, changed(CHOICE, "random", "accuracy", 0.85), ()),
    (FINDS, changed(MENDING, SURPRISE, "found", 4.5), (FINDS_MORE,)),
    (FINDS_MORE, changed(MENDING, "one_at_a_time", "found", 4.0), ()),
    (MENDED, changed(MENDING, CLEAN, "accuracy", 0.88), ()),
    (PRUNED, changed(CHOICE, ALL, "tokens", 500.0), (PRUNED_GOAL,)),
    (PRUNED_GOAL, changed(CHOICE, ALL, "accuracy", 0.865), ()),
]
PLANTED = {"select-real": [Planted(claim, planted, absent, SETTINGS, also=also) for claim, absent, also in TURNS]}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
