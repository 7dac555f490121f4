"""What a store is given it gives back, bit for bit and in order; what is no store is left alone."""

from __future__ import annotations

import math
import os
import sqlite3
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sweeps.small_runs import SmallConfig, add, index_of, metrics_of, result_of, tensors_of

from iclens.errors import UserError
from iclens.sweeps.result import Result
from iclens.sweeps.store import Store
from iclens.training.config import RunConfig
from iclens.training.metric import Metric

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool]


def bits(tensor):
    return tensor.dtype, tuple(tensor.shape), bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy())


# What comes out is what went in.


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtypes=st.lists(st.sampled_from(DTYPES), max_size=4),
    shape=st.lists(st.integers(0, 3), max_size=3),
    metrics=st.lists(
        st.tuples(
            st.integers(0, 2**40),
            st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=5),
            st.none() | st.integers(0, 50),
            st.floats(),
        ),
        max_size=6,
    ),
    seed=st.integers(0, 2**31),
)
def test_a_run_is_given_back_bit_for_bit(dtypes, shape, metrics, seed, tmp_path):
    generator = torch.Generator().manual_seed(seed)
    raw = [torch.randint(-4, 4, shape, generator=generator) for _ in dtypes]
    tensors = {f"p.{place}": one.to(dtype) for place, (one, dtype) in enumerate(zip(raw, dtypes, strict=True))}
    config = SmallConfig(seed)
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    store = Store(folder)
    assert store.add(config, tensors, metrics, result_of(note="ünïcode\n"))
    run = Store(folder).load(config.key())
    assert {name: bits(tensor) for name, tensor in run.tensors().items()} == {
        name: bits(tensor) for name, tensor in tensors.items()
    }
    assert [repr(Metric(*row)) for row in metrics] == [repr(row) for row in run.metrics()]
    assert run.result.note == "ünïcode\n"
    assert run.config == {**config.to_dict(), "training": {**config.to_dict()["training"], "betas": [0.9, 0.999]}}
    assert [row.config for row in store.rows()] == [run.config]
    assert repr(store.rows()[0].result) == repr(run.result)
    assert store.verify() == []


def test_extreme_numbers_keep_their_bits(tmp_path):
    store, config = Store(tmp_path / "s"), SmallConfig()
    values = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7e308])
    store.add(config, {"w": values}, [(0, "loss", None, value) for value in values.tolist()], result_of())
    run = store.load(config.key())
    assert bits(run.tensors()["w"]) == bits(values)
    assert [repr(row.value) for row in run.metrics()] == [repr(value) for value in values.tolist()]


def test_a_run_of_an_ensemble_is_stored_without_its_neighbours(tmp_path):
    ensemble = torch.nn.Parameter(torch.randn(1000, 4, 4))
    store, config = Store(tmp_path / "s"), SmallConfig()
    store.add(config, {"w": ensemble[3], "same": ensemble[3], "turned": ensemble[3].mT}, [], result_of())
    assert (tmp_path / "s" / "runs" / config.key() / "model.safetensors").stat().st_size < 2000
    again = store.load(config.key()).tensors()
    assert torch.equal(again["w"], ensemble[3])
    assert torch.equal(again["turned"], ensemble[3].mT)
    assert not again["w"].requires_grad


def test_a_stored_configuration_is_the_same_run_again(tmp_path):
    config = RunConfig.from_dict({"seed": 5, "training": {"steps": 7, "betas": [0.8, 0.9]}})
    store = Store(tmp_path / "s")
    store.add(config, {}, [], result_of())
    assert RunConfig.from_dict(store.load(config.key()).config).key() == config.key()
    assert store.missing([config, replace(config, seed=6)]) == [replace(config, seed=6)]


def test_a_diverged_run_is_kept_as_such(tmp_path):
    store, config = Store(tmp_path / "s"), SmallConfig()
    metrics = [(0, "loss", None, 1.0), (7, "loss", None, math.inf)]
    result = result_of(status="diverged", last_finite_step=6, note="the loss is inf at step 7")
    store.add(config, tensors_of(0), metrics, result)
    (row,) = Store(tmp_path / "s").rows()
    assert (row.result.status, row.result.last_finite_step, row.result.final) == ("diverged", 6, {"loss": math.inf})
    assert store.has(config.key())


def test_final_is_the_last_value_of_whole_prompts_or_of_the_longest_prefix(tmp_path):
    store = Store(tmp_path / "s")
    add(store, 3)
    (row,) = store.rows()
    assert row.result.final == {"loss": math.exp(-2) + 3, "error@3": 1 / (1 + 2 + 3)}


def test_a_run_is_added_once(tmp_path):
    store, config = Store(tmp_path / "s"), SmallConfig()
    assert store.add(config, tensors_of(0), [], result_of())
    assert not store.add(config, tensors_of(1), [], result_of(seconds=9.0))
    assert torch.equal(store.load(config.key()).tensors()["gain"], tensors_of(0)["gain"])
    assert len(store.rows()) == 1


def test_missing_keeps_the_order(tmp_path):
    store = Store(tmp_path / "s")
    for seed in (1, 3):
        add(store, seed)
    assert [config.seed for config in store.missing([SmallConfig(seed) for seed in (4, 3, 2, 1, 0)])] == [4, 2, 0]


def test_rows_are_in_the_order_in_which_they_were_added(tmp_path):
    store = Store(tmp_path / "s")
    keys = [add(store, seed) for seed in (5, 2, 9, 0)]
    assert [row.key for row in store.rows()] == keys
    assert [row.key for row in Store(tmp_path / "s", rebuild=True).rows()] == keys


def test_a_prefix_finds_the_one_run_that_begins_so(tmp_path):
    store = Store(tmp_path / "s")
    keys = [add(store, seed) for seed in range(12)]
    assert store.find(keys[0]) == store.find(keys[0][:10].upper()) == keys[0]
    with pytest.raises(UserError, match=r"12 runs in .* have keys that begin with ''"):
        store.find("")
    with pytest.raises(UserError, match=r"no run in .* begins with 'xyz'"):
        store.find("xyz")


def test_what_was_removed_is_gone(tmp_path):
    store = Store(tmp_path / "s")
    kept, removed = add(store, 0), add(store, 1)
    run = store.load(removed)
    store.remove(removed)
    assert store.keys() == Store(tmp_path / "s").keys() == {kept}
    assert os.listdir(tmp_path / "s" / "runs") == [kept]
    with pytest.raises(UserError, match="is gone"):
        run.metrics()
    for action in (store.load, store.remove):
        with pytest.raises(UserError, match="no run"):
            action(removed)
    assert add(store, 1) == removed


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([(0, "loss", 1.0)], r"\(0, 'loss', 1\.0\) is not a metric: give"),
        ([(0, "loss", None, "much")], "is not a metric: give"),
        ([(-1, "loss", None, 1.0)], "must not be negative"),
        ([(0, "", None, 1.0)], "its name must be a text"),
    ],
)
def test_what_is_no_metric_is_refused(tmp_path, metrics, message):
    store = Store(tmp_path / "s")
    with pytest.raises(UserError, match=message):
        store.add(SmallConfig(), {}, metrics, result_of())
    assert os.listdir(tmp_path / "s" / "runs") == []


def test_what_cannot_be_written_is_refused(tmp_path):
    class Named(SmallConfig):
        def key(self):
            return "../outside"

    class Endless(SmallConfig):
        def to_dict(self):
            return {"clip": math.inf}

    store = Store(tmp_path / "s")
    with pytest.raises(UserError, match=r"'\.\./outside' is not a run's key"):
        store.add(Named(), {}, [], result_of())
    with pytest.raises(UserError, match="cannot be written as JSON"):
        store.add(Endless(), {}, [], result_of())
    with pytest.raises(UserError, match="cannot be written as safetensors"):
        store.add(SmallConfig(), {"w": torch.ones(2).to_sparse()}, [], result_of())
    for changes in ({"seconds": math.nan}, {"seconds": -1.0}, {"last_finite_step": -1}):
        with pytest.raises(UserError, match="of a run must"):
            result_of(**changes)
    assert os.listdir(tmp_path / "s" / "runs") == []


def test_metrics_of_a_run_are_those_that_were_given(tmp_path):
    store = Store(tmp_path)
    key = add(store, 2)
    assert store.load(key).metrics() == [Metric(*row) for row in metrics_of(2)]


def test_ten_thousand_runs_are_listed(tmp_path):
    store = Store(tmp_path)
    config, result = '{"seed": 1, "task": {"name": "linear"}}', result_of().to_json()
    keys = [f"{number:016x}" for number in range(10_000)]
    for key in keys:
        (tmp_path / "runs" / key).mkdir()
    index_of(store.path).insert((0, key, config, result, "0" * 64) for key in keys)
    again = Store(tmp_path)
    assert again.notes == []
    assert [row.key for row in again.rows()] == keys


def test_a_result_is_read_back():
    result = result_of(final={"loss": math.nan, "error": 1.5})
    assert repr(Result.from_json(result.to_json())) == repr(result)
    for text in ("{}", "[]", "3", '{"status": "finished"}'):
        with pytest.raises(ValueError, match="not a result"):
            Result.from_json(text)


# Opening.


def test_only_a_store_is_opened_and_only_a_folder_made(tmp_path):
    with pytest.raises(UserError, match=r"no store of runs in .*none"):
        Store(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    for create in (True, False):
        with pytest.raises(UserError, match="is a file: a store of runs is a folder"):
            Store(tmp_path / "file", create=create)
    with pytest.raises(UserError, match=r"cannot create the store .*Not a directory"):
        Store(tmp_path / "file" / "below")
    (tmp_path / "other" / "runs" / "notes").mkdir(parents=True)
    with pytest.raises(UserError, match="no store of runs"):
        Store(tmp_path / "other", create=False)
    Store(tmp_path / "deep" / "er")
    assert Store(tmp_path / "deep" / "er", create=False).rows() == []


def test_another_programs_database_is_left_alone(tmp_path):
    path = tmp_path / "index.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE songs (name TEXT)")
    db.close()
    before = path.read_bytes()
    for rebuild in (False, True):
        with pytest.raises(UserError, match="another program's database"):
            Store(tmp_path, rebuild=rebuild)
    assert path.read_bytes() == before


def test_files_have_the_modes_that_open_gives(tmp_path):
    store = Store(tmp_path / "s")
    key = add(store)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    folder = tmp_path / "s" / "runs" / key
    mode = stat.S_IMODE((tmp_path / "file").stat().st_mode)
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {mode}
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "folder").stat().st_mode)
