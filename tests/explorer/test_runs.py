"""The view of runs gives the store's numbers, the gallery's verdicts, and nothing from outside their folders."""

import json
import math

import pytest
import torch
from tests.explorer.conftest import serving
from tests.sweeps.small_runs import SmallConfig, add, tensors_of

from iclens.errors import UserError
from iclens.explorer.app import build_app
from iclens.explorer.gallery_view import gallery_view, picture
from iclens.explorer.runs_view import MOST_CURVES, MOST_POINTS, Runs
from iclens.recipes.best_of_many import over_seeds
from iclens.sweeps.result import Result
from iclens.sweeps.store import Store

RATES = (1e-3, 1e-2)
TASKS = ("linear", "sparse")
SEEDS = range(3)


def loss(rate, task, seed, step):
    return (1 + (task == "sparse")) * math.exp(-100 * rate * step) + 0.1 * seed


def put(store, rate, task, seed):
    rows = [(step, "loss", None, loss(rate, task, seed, step)) for step in (0, 1, 2)]
    rows += [(2, "error", prefix, 1 / (1 + prefix) + seed) for prefix in (1, 2, 4)]
    config = SmallConfig(seed, rate, task)
    store.add(config, tensors_of(seed), rows, Result("finished", 0.5, 2))
    return config.key()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    for rate in RATES:
        for task in TASKS:
            for seed in SEEDS:
                put(store, rate, task, seed)
    return store


@pytest.fixture(scope="module")
def runs(store):
    return Runs(store.path)


def column(found, name):
    return [row[found["columns"].index(name)] for row in found["rows"]]


def test_the_list_is_the_stores(runs, store):
    found = runs.listing({})
    assert column(found, "key") == [row.key for row in store.rows()]
    assert found["n_chosen"] == found["n_runs"] == 12
    # What all runs share is no column.
    settings = [axis["name"] for axis in found["axes"]]
    assert sorted(settings) == ["seed", "task.name", "training.learning_rate"]
    assert found["metrics"] == ["loss", "error"]


def test_pages_are_parts_of_the_sorted_list(runs):
    whole = column(runs.listing({"sort": "final.loss", "reverse": True}), "key")
    pages = [runs.listing({"sort": "final.loss", "reverse": True, "offset": at, "limit": 5}) for at in (0, 5, 10)]
    assert [key for page in pages for key in column(page, "key")] == whole
    values = [float(value) for page in pages for value in column(page, "final.loss")]
    assert values == sorted(values, reverse=True)


def test_conditions_are_those_of_runs_list(runs):
    found = runs.listing({"where": "task.name=sparse, seed<2"})
    assert found["n_chosen"] == 4
    assert found["n_runs"] == 12
    assert set(column(found, "seed")) == {"0", "1"}
    # With one task left, the task tells no run from another.
    assert "task.name" not in found["columns"]


def test_a_curve_is_the_runs_own(runs, store):
    key = store.rows()[4].key
    curve = runs.curves({"keys": [key], "metric": "loss"})["curves"][0]
    rows = [row for row in store.load(key).metrics() if row.name == "loss"]
    assert curve["x"] == [row.step for row in rows]
    assert curve["y"] == [row.value for row in rows]


def test_a_metric_by_demonstrations_is_drawn_over_these(runs, store):
    found = runs.curves({"keys": [store.rows()[1].key], "metric": "error"})
    assert found["x_name"] == "demonstrations"
    assert found["curves"][0]["x"] == [1, 2, 4]
    assert found["curves"][0]["y"] == pytest.approx([1 / 2 + 1, 1 / 3 + 1, 1 / 5 + 1])


@pytest.mark.parametrize("x", ["", "training.learning_rate"])
def test_a_line_is_the_mean_and_interval_over_seeds(runs, x):
    found = runs.panels(
        {"metric": "loss", "panel": "task.name", "colour": "" if x else "training.learning_rate", "x": x}
    )
    assert [panel["value"] for panel in found["panels"]] == ["linear", "sparse"]
    assert found["also_over"] == []
    panel = found["panels"][1]
    for i, rate in enumerate(RATES):
        line = panel["lines"][0 if x else i]
        values = torch.tensor([loss(rate, "sparse", seed, 2) for seed in SEEDS], dtype=torch.float64)
        expected = over_seeds(values)
        at = line["x"].index(rate if x else 2.0)
        assert [line[name][at] for name in ("mean", "low", "high")] == pytest.approx(
            [expected.mean, expected.low, expected.high]
        )


def test_a_mean_says_over_how_many_runs_it_is(tmp_path):
    store = Store(tmp_path)
    for seed, values in enumerate([(1.0, 2.0, 3.0), (3.0, 4.0, math.inf), (5.0,), (math.nan,)]):
        rows = [(step, "loss", None, value) for step, value in enumerate(values)]
        store.add(SmallConfig(seed), tensors_of(seed), rows, Result("diverged", 1.0, 2))
    (line,) = Runs(tmp_path).panels({"metric": "loss"})["panels"][0]["lines"]
    assert (line["x"], line["mean"], line["n"]) == ([0, 1, 2], [3, 3, 3], [3, 2, 1])
    assert (line["n_runs"], line["n_partial"], line["n_left_out"]) == (4, 2, 1)


def test_a_run_that_diverges_alone_is_in_part_of_its_line(tmp_path):
    store = Store(tmp_path)
    rows = [(0, "loss", None, 1.0), (1, "loss", None, math.inf)]
    store.add(SmallConfig(0), tensors_of(0), rows, Result("diverged", 1.0, 1))
    (line,) = Runs(tmp_path).panels({"metric": "loss"})["panels"][0]["lines"]
    assert (line["x"], line["n"], line["n_partial"], line["n_left_out"]) == ([0], [1], 1, 0)


def test_what_is_averaged_besides_seeds_is_said(runs):
    assert runs.panels({"metric": "loss", "panel": "task.name"})["also_over"] == ["training.learning_rate"]
    assert runs.panels({"metric": "loss"})["also_over"] == ["task.name", "training.learning_rate"]


def test_a_long_curve_is_thinned_from_end_to_end(tmp_path):
    store = Store(tmp_path)
    config = SmallConfig(1)
    rows = [(step, "loss", None, float(step)) for step in range(5_000)]
    store.add(config, tensors_of(1), [*rows, (5_000, "loss", None, math.nan)], Result("diverged", 0.5, 4_999))
    (curve,) = Runs(tmp_path).curves({"keys": [config.key()], "metric": "loss"})["curves"]
    assert (len(curve["x"]), curve["n_points"]) == (MOST_POINTS, 5_001)
    assert (curve["x"][0], curve["x"][-1], curve["y"][-1]) == (0, 5_000, None)
    assert curve["y"][:-1] == curve["x"][:-1]
    # A value that is no number is in no mean.
    panels = Runs(tmp_path).panels({"metric": "loss"})["panels"]
    assert panels[0]["lines"][0]["x"][-1] < 5_000


def test_runs_that_are_added_are_seen(tmp_path):
    store = Store(tmp_path)
    add(store, 0)
    runs = Runs(tmp_path)
    assert runs.listing({})["n_runs"] == 1
    key = add(store, 1)
    assert column(runs.listing({}), "key")[1] == key
    store.remove(key)
    assert runs.listing({})["n_runs"] == 1


def test_a_store_that_comes_later_is_seen(tmp_path):
    runs = Runs(tmp_path / "later")
    with pytest.raises(UserError, match="there is no store"):
        runs.listing({})
    add(Store(tmp_path / "later"), 3)
    assert runs.listing({})["n_runs"] == 1


def test_a_damaged_run_is_told_in_place_of_its_curve(tmp_path):
    store = Store(tmp_path)
    keys = [add(store, seed) for seed in (0, 1)]
    (tmp_path / "runs" / keys[0] / "metrics.parquet").write_bytes(b"not what was written")
    damaged, sound = Runs(tmp_path).curves({"keys": keys, "metric": "loss"})["curves"]
    assert "is damaged" in damaged["problem"]
    assert len(sound["x"]) == 3
    assert Runs(tmp_path).panels({"metric": "loss"})["panels"][0]["lines"][0]["n_left_out"] == 1


@pytest.mark.parametrize(
    ("view", "asked", "said"),
    [
        ("listing", {"order": "x"}, "'order' is not known"),
        ("listing", {"offest": 3}, "Did you mean 'offset'"),
        ("listing", {"limit": 2.5}, "limit is 2.5: it must be a whole number of 0 or more"),
        ("listing", {"where": "nonsense"}, "not a condition"),
        ("listing", {"where": "task.nam=x"}, "Did you mean 'task.name'"),
        ("listing", {"sort": "los"}, "no run has a column"),
        ("listing", {"offset": -1}, "0 or more"),
        ("curves", {"keys": "abc"}, "list of strings"),
        ("curves", {"keys": ["0" * 16] * (MOST_CURVES + 1)}, "at most"),
        ("panels", {"metric": "loss", "panel": "nothing"}, "no run has a column"),
    ],
)
def test_a_mistake_is_one_sentence(runs, view, asked, said):
    with pytest.raises(UserError, match=said):
        getattr(runs, view)(asked)


VERDICT = {"outcome": "does not hold", "claim": "2 < 1", "source": "Nobody", "trust": "asked", "numbers": "2"}
RECORD = {"title": "A recipe", "reference": "Nobody 2000", "preset": "quick", "seconds": 65, "command": "iclens"}
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.fixture
def gallery(tmp_path):
    folder = tmp_path / "gallery"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "verdicts.json").write_text(json.dumps([VERDICT]))
    (folder / "one" / "table.json").write_text(json.dumps({**RECORD, "columns": {"x": [1] * 9}}))
    (folder / "one" / "figure.svg").write_text(SVG)
    return folder


def test_a_gallery_is_shown_as_it_was_written(gallery):
    (one,) = gallery_view(gallery)["recipes"]
    assert (one["title"], one["duration"], one["pictures"]) == ("A recipe", "65 s", ["figure.svg"])
    (verdict,) = one["verdicts"]
    assert {name: verdict[name] for name in VERDICT} == {**VERDICT, "trust": "our question"}
    assert verdict["style"] == "fails"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("verdicts.json", "{"),
        ("verdicts.json", '[{"outcome": "perhaps"}]'),
        ("verdicts.json", "3"),
        ("table.json", "[]"),
        ("table.json", '{"seconds": 1' + "0" * 400 + "}"),
        ("verdicts.json", "[" * 100_000),
    ],
)
def test_a_broken_recipe_does_not_hide_the_others(gallery, file, content):
    (gallery / "two").mkdir()
    for name, text in {"verdicts.json": json.dumps([VERDICT]), "table.json": json.dumps(RECORD), file: content}.items():
        (gallery / "two" / name).write_text(text)
    one, two = gallery_view(gallery)["recipes"]
    assert one["problem"] is None
    assert two["problem"].startswith("two cannot be read")


def test_nothing_outside_a_gallery_is_read(gallery):
    secret = gallery.parent / "figure.svg"
    secret.write_text("secret")
    (gallery.parent / "other").mkdir()
    (gallery.parent / "other" / "figure.svg").write_text("secret")
    (gallery / "linked").symlink_to(gallery.parent / "other")
    (gallery / "three").mkdir()
    (gallery / "three" / "figure.svg").symlink_to(secret)
    assert picture(gallery, "one", "figure.svg") == SVG.encode()
    for name in ("..", ".", "../gallery/one", "linked", "three", "one/../..", str(gallery.parent), "nothing"):
        assert picture(gallery, name, "figure.svg") is None, name
    assert picture(gallery, "one", "verdicts.json") is None
    assert picture(gallery, "one", "../one/figure.svg") is None


def test_the_server_shows_stores_and_pictures(model, example, store, gallery, tmp_path):
    with serving(build_app(model, example, store=store.path, gallery=gallery)) as served:
        status, found = served.ask("runs", {"limit": 2})
        assert status == 200
        assert len(found["rows"]) == 2
        assert served.ask("runs", {"where": "?"}) == (422, {"error": served.ask("runs", {"where": "?"})[1]["error"]})
        status, headers, text = served.request("GET", "/gallery/one/figure.svg")
        assert (status, headers["content-type"], text) == (200, "image/svg+xml", SVG)
        # Opened on its own, a picture runs nothing.
        assert "sandbox" in headers["content-security-policy"]
        assert "script-src" not in headers["content-security-policy"]
        for path in ("/gallery/one/verdicts.json", "/gallery/..%2fone/figure.svg", "/gallery/%2e%2e/figure.svg"):
            assert served.request("GET", path)[0] == 404, path
        assert served.request("GET", "/gallery/one/figure.svg", Host="evil.example")[0] == 403


def test_what_is_missing_is_one_sentence(served, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for view, said in (("runs", "There is no store of runs"), ("gallery", "There is no gallery")):
        status, found = served.ask(view, {})
        assert status == 422
        assert said in found["error"]
