"""The Lab view's numbers are those of the model and of the estimators; what cannot be answered is one sentence."""

import contextlib
import io
import json
import re

import pytest
import torch

from iclens.estimators.estimator import build_estimator
from iclens.explorer.lab_ask import LabAsk
from iclens.explorer.lab_view import lab_view, line
from iclens.tasks.prompt_batch import PromptBatch
from iclens.training import regressors
from iclens.training.default_dtype import default_dtype

POINTS = [[-0.8, -0.9], [-0.3, 0.2], [0.1, 0.6], [0.45, -0.5], [0.9, 1.4]]
ASKED = {"points": POINTS, "query": 0.25, "alpha": 0.3, "neighbours": 2, "steps": 7, "rate": 0.4}


def prompt(points, query):
    given = torch.tensor(points).reshape(-1, 2)
    inputs = torch.cat([given[:, :1], torch.tensor([[query]])])
    return PromptBatch(inputs[None], torch.cat([given[:, 1:], torch.zeros(1, 1)])[None], {})


def answer(model, given):
    return float(model(given.inputs[None], given.labels[None])[0, 0, -1, 0])


@pytest.fixture(scope="module")
def seen(served):
    status, found = served.ask("lab", ASKED)
    assert status == 200
    return found


@pytest.mark.parametrize("attention", regressors.VARIANTS)
def test_the_curve_and_the_pulls_are_the_models(served, attention):
    _, found = served.ask("lab", {**ASKED, "attention": attention})
    model = regressors.load_regressor(attention)
    own = answer(model, prompt(POINTS, 0.25))
    assert found["answers"]["model"] == pytest.approx(own, abs=1e-12)
    for i in (0, 37, 80):
        assert found["curves"]["model"][i] == pytest.approx(answer(model, prompt(POINTS, found["grid"][i])), abs=1e-12)
    assert sum(one["pull"] for one in found["points"]) + found["rest"] == pytest.approx(own, abs=1e-12)
    assert abs(found["residual"]) < 1e-12
    for i, one in enumerate(found["points"]):
        left_out = answer(model, prompt(POINTS[:i] + POINTS[i + 1 :], 0.25))
        assert one["left_out"] == pytest.approx(own - left_out, abs=1e-12)


@pytest.mark.parametrize("features", ["waves", "line"])
def test_the_estimators_are_those_of_the_library(served, features):
    _, found = served.ask("lab", {**ASKED, "features": features})
    phi = regressors.regressor_task().features if features == "waves" else line
    estimators = {
        "ridge": build_estimator("ridge", {"alpha": 0.3, "features": phi}),
        "least_squares": build_estimator("least-squares", {"features": phi}),
        "nearest_neighbours": build_estimator("nearest-neighbours", {"n_neighbors": 2}),
        "gradient_descent": build_estimator("gradient-descent", {"n_steps": 7, "learning_rate": 0.4, "features": phi}),
    }
    assert set(found["curves"]) == {*estimators, "model", "function"}
    for name, one in estimators.items():
        assert found["answers"][name] == pytest.approx(float(one.predict(prompt(POINTS, 0.25))), abs=1e-9), name
        for i in (0, 41, 80):
            own = float(one.predict(prompt(POINTS, found["grid"][i])))
            assert found["curves"][name][i] == pytest.approx(own, abs=1e-9), name


def test_one_point_left_out_is_no_point_at_all(served):
    _, found = served.ask("lab", {"points": [[0.2, 1.0]], "query": 0.2})
    model = regressors.load_regressor("softmax")
    alone = answer(model, prompt([], 0.2))
    assert found["points"][0]["left_out"] == pytest.approx(found["answers"]["model"] - alone, abs=1e-12)


def test_the_python_gives_the_same_numbers(seen):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(seen["python"], {})
    lines = dict(re.match(r"(\S+) (.*)", text).groups() for text in printed.getvalue().splitlines())
    assert float(lines["model"]) == pytest.approx(seen["answers"]["model"], abs=1e-9)
    pulls = json.loads(lines["pulls"].split(" rest")[0])
    assert pulls == pytest.approx([one["pull"] for one in seen["points"]], abs=1e-9)
    for name in ("ridge", "least_squares", "nearest_neighbours", "gradient_descent"):
        assert float(lines[name.replace("_", "-")]) == pytest.approx(seen["answers"][name], abs=1e-6)


def test_drawn_points_are_the_function_and_sigma_times_the_noise(served):
    _, found = served.ask("lab", {"seed": 3, "n": 6, "noise": 0.5})
    drawn = found["drawn"]
    expected = [[x, max(-3.5, min(3.5, v + 0.5 * z))] for x, v, z in zip(*drawn.values(), strict=True)][:6]
    for point, own in zip(found["settings"]["points"], expected, strict=True):
        assert point == pytest.approx(own, abs=1e-4)
    _, exact = served.ask("lab", {"seed": 3, "n": 20, "noise": 0, "alpha": 1e-6})
    assert [p[0] for p in exact["settings"]["points"]][:6] == [p[0] for p in found["settings"]["points"]]
    # Without noise twenty points tell the function: four waves, and ridge with hardly a penalty.
    assert exact["curves"]["ridge"] == pytest.approx(exact["curves"]["function"], abs=1e-2)
    _, other = served.ask("lab", {"seed": 4, "n": 6})
    assert other["drawn"] != drawn


def test_drawn_functions_are_the_tasks_own(served):
    _, found = served.ask("lab", {"seed": 7})
    task = regressors.regressor_task()
    own = task.sample(torch.Generator().manual_seed(7), (), regressors.MOST_POINTS)
    assert found["drawn"]["x"] == pytest.approx(own.xs[:, 0].tolist(), abs=1e-4)
    values = task.values(own.xs, own.function)
    assert found["drawn"]["value"] == pytest.approx(values[:, 0].tolist())
    noise = (own.ys - values) / task.noise_std
    assert found["drawn"]["noise"] == pytest.approx(noise[:, 0].tolist())


def test_the_default_dtype_of_other_threads_plays_no_part():
    ask = LabAsk.read({"seed": 5, "attention": "augmented", "rate": 0.3})
    own = lab_view(ask)
    regressors.load_regressor.cache_clear()
    with default_dtype(torch.float32):
        assert lab_view(ask) == own
    regressors.load_regressor.cache_clear()


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "no JSON object"),
        ({"point": []}, "Did you mean 'points'"),
        ({"<script>alert(1)</script>": 1}, "is not known"),
        ({"points": []}, "0 points"),
        ({"points": [[0, 0]] * 21}, "1 to 20"),
        ({"points": "all"}, "list of pairs"),
        ({"points": [[0, 0], [0]]}, "point 1 is no pair"),
        ({"points": [[0, "much"]]}, "point 0's y is 'much'"),
        ({"points": [["<img src=x onerror=alert(1)>", 0]]}, "point 0's x"),
        ({"points": [[0, True]]}, "point 0's y is True"),
        ({"points": [[1.5, 0]]}, "from -1 to 1"),
        ({"points": [[0, 4]]}, "from -3.5 to 3.5"),
        ('{"points": [[0, NaN]]}', "point 0's y is nan"),
        ('{"query": Infinity}', "the query's x is inf"),
        ('{"query": 1' + "0" * 400 + "}", "query's x"),
        ({"query": "left"}, "query's x is 'left'"),
        ({"attention": "softmx"}, "one of softmax, regularized, augmented, negative"),
        ({"attention": ["softmax"]}, "one of softmax"),
        ({"features": "x" * 10_000}, "one of waves, line"),
        ({"alpha": 0}, "from 1e-06"),
        ({"n": 0}, "whole number from 1 to 20"),
        ({"neighbours": 2.5}, "whole number"),
        ({"steps": 10**9}, "from 0 to 200"),
        ({"seed": -1}, "seed is -1"),
        ("{not JSON", "not JSON"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(served, document, said):
    status, found = served.ask("lab", document)
    assert (status, "\n" in found["error"], len(found["error"]) < 300) == (422, False, True)
    assert said.lower() in found["error"].lower()


def test_steps_that_diverge_are_numbers_still(served):
    status, found = served.ask("lab", {"points": [[1, 3.5]] * 20, "rate": 10.0, "steps": 200})
    assert status == 200
    assert abs(found["answers"]["gradient_descent"]) > 1e50


def test_points_on_top_of_each_other_are_answered(served):
    status, found = served.ask("lab", {"points": [[0.5, 1.0]] * 20, "query": 0.5, "features": "line"})
    assert status == 200
    assert found["answers"]["least_squares"] == pytest.approx(1.0)


def test_the_page_knows_the_regressors_before_it_asks(served):
    _, headers, text = served.request("GET", "/")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert set(data["lab"]["variants"]) == set(regressors.VARIANTS)
    assert data["lab"]["most_points"] == regressors.MOST_POINTS


def test_a_saved_page_holds_its_numbers(served):
    status, _, text = served.request("POST", "/api/lab-save", json.dumps(ASKED), Content_Type="application/json")
    assert status == 200
    assert len(text) < 300_000
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))
    assert data["view"] == "lab"
    assert data["lab_answer"]["settings"]["points"] == POINTS
    assert "sha256-" in text
    status, found = served.ask("lab-save", {"query": 2})
    assert status == 422
    assert "query" in found["error"]
