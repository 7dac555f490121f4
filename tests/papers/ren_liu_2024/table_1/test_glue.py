"""GLUE's metrics against known values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.errors import UserError
from iclens.papers.ren_liu_2024.table_1 import glue
from iclens.papers.ren_liu_2024.table_1.glue import TASKS


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
