"""GLUE's metrics against known values, and reading of real data with its mistakes."""

from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.errors import UserError
from iclens.papers.ren_liu_2024.table_1 import glue
from iclens.papers.ren_liu_2024.table_1.glue import TASKS, Example, load_task


def metrics(task, predictions, labels):
    return glue.metrics(task, [float(x) for x in predictions], [float(x) for x in labels])


def headline(task, predictions, labels):
    return glue.headline(task, [float(x) for x in predictions], [float(x) for x in labels])


def test_metrics_have_their_known_values():
    # true positives 2, false positives 1, false negatives 1, true negatives 2
    predictions, labels = [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]
    assert metrics(TASKS["cola"], predictions, labels) == {"matthews": pytest.approx(3 / 9)}
    assert metrics(TASKS["mrpc"], predictions, labels) == {"f1": pytest.approx(4 / 6), "accuracy": pytest.approx(4 / 6)}
    assert metrics(TASKS["rte"], predictions, labels) == {"accuracy": pytest.approx(4 / 6)}
    # y = x^3 on 1, 2, 3: monotone, so that the ranks agree; Pearson is 26 / sqrt(2 * 1086/3)
    found = metrics(TASKS["stsb"], [1, 8, 27], [1, 2, 3])
    assert found == {"pearson": pytest.approx(26 / math.sqrt(2 * 362)), "spearman": pytest.approx(1.0)}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
def test_matthews_and_f1_agree_with_their_formulas(pairs):
    predictions, labels = zip(*pairs, strict=True)
    tp, tn = pairs.count((1, 1)), pairs.count((0, 0))
    fp, fn = pairs.count((1, 0)), pairs.count((0, 1))
    root = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    matthews = (tp * tn - fp * fn) / root if root else 0.0
    f1 = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0
    assert metrics(TASKS["cola"], predictions, labels)["matthews"] == pytest.approx(matthews, abs=1e-12)
    assert metrics(TASKS["mrpc"], predictions, labels)["f1"] == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize("name", TASKS)
def test_constant_predictions_score_what_they_deserve_without_a_warning(name):
    labels = [0.0, 1.0, 1.0, 0.0]
    found = metrics(TASKS[name], [0.0] * 4, labels)
    assert found == {key: 0.5 if key == "accuracy" else 0.0 for key in TASKS[name].metrics}


def test_the_headline_is_the_mean_of_the_metrics():
    task = TASKS["mrpc"]
    predictions, labels = [1, 1, 1, 0], [1, 0, 0, 0]
    assert headline(task, predictions, labels) == pytest.approx((0.5 + 0.5) / 2)
    assert headline(task, [1, 1, 1, 1], [1, 1, 1, 0]) == pytest.approx((6 / 7 + 3 / 4) / 2)


def test_metrics_refuse_what_they_cannot_measure():
    for predictions, labels in (([1], [1, 0]), ([], []), ([float("nan")], [1])):
        with pytest.raises(UserError):
            metrics(TASKS["rte"], predictions, labels)


def write(folder, name, part, rows, suffix="jsonl"):
    place = folder / name
    place.mkdir(exist_ok=True)
    if suffix == "jsonl":
        (place / f"{part}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    else:
        columns = list(rows[0])
        lines = [",".join(columns), *(",".join(str(row[c]) for c in columns) for row in rows)]
        (place / f"{part}.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_folder_is_read(tmp_path, suffix):
    rows = [{"sentence1": "a b", "sentence2": "c", "label": 4.5}, {"sentence1": "d", "sentence2": "e", "label": 0}]
    for part in ("train", "validation"):
        write(tmp_path, "stsb", part, rows, suffix)
    data = load_task("stsb", str(tmp_path))
    assert data.train == data.validation == (Example(("a b", "c"), 4.5), Example(("d", "e"), 0.0))
    assert not data.generated
    assert "generated" not in data.title


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sentence": "a"}, "'label' is missing"),
        ({"text": "a", "label": 1}, "'sentence' is missing"),
        ({"sentence": "a", "label": -1}, "hides the labels"),
        ({"sentence": "a", "label": 0.5}, "none of 0 … 1"),
        ({"sentence": "a", "label": "good"}, "not a number"),
    ],
)
def test_bad_examples_are_named(tmp_path, row, message):
    for part in ("train", "validation"):
        write(tmp_path, "cola", part, [{"sentence": "fine", "label": 1}, row])
    with pytest.raises(UserError, match=f"cola, train, example 2: .*{message}"):
        load_task("cola", str(tmp_path))


def test_a_folder_without_the_task_a_split_or_json_is_refused(tmp_path):
    with pytest.raises(UserError, match="it has no folder cola"):
        load_task("cola", str(tmp_path))
    with pytest.raises(UserError, match="it is not a folder"):
        load_task("cola", str(tmp_path / "nowhere"))
    write(tmp_path, "cola", "train", [{"sentence": "fine", "label": 1}])
    with pytest.raises(UserError, match="no split 'validation'"):
        load_task("cola", str(tmp_path))
    (tmp_path / "cola" / "validation.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"validation\.jsonl, line 1: not JSON"):
        load_task("cola", str(tmp_path))


def test_without_the_library_datasets_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        load_task("rte", "glue")


def test_the_hub_is_asked_by_glues_name_and_its_failure_is_one_sentence(monkeypatch, tmp_path):
    asked = []

    def load_dataset(*names):
        asked.append(names)
        rows = [{"sentence1": "a", "sentence2": "b", "label": 0, "idx": 0}]
        return {"train": rows, "validation": rows, "test": [{"label": -1}]}

    monkeypatch.setitem(
        sys.modules,
        "datasets",
        SimpleNamespace(load_dataset=load_dataset, load_from_disk=lambda place: load_dataset(place)),
    )
    assert load_task("rte", "glue").train == (Example(("a", "b"), 0.0),)
    assert asked == [("glue", "rte")]
    (tmp_path / "rte").mkdir()
    (tmp_path / "rte" / "dataset_dict.json").write_text("{}")
    assert load_task("rte", str(tmp_path)).train == (Example(("a", "b"), 0.0),)

    def offline(*names):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=offline))
    with pytest.raises(UserError, match=r"cannot be had from the hub \(no route\)"):
        load_task("rte", "glue")
