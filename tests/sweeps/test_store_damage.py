"""Damage to any file of a store is found, named and put right, and costs no other run."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sweeps.small_runs import add, index_of

from iclens.errors import UserError
from iclens.sweeps import run_folder
from iclens.sweeps.store import Store


@pytest.fixture(scope="module")
def three_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    return folder, [add(Store(folder), seed) for seed in range(3)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_or_a_cut_in_any_file_is_found(data, three_runs, tmp_path):
    source, (key, *_) = three_runs
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    shutil.copytree(source, folder, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(sorted(os.listdir(folder / "runs" / key))))
    file = folder / "runs" / key / name
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, 8 * len(content) - 1))
        content[place // 8] ^= 1 << place % 8
    else:
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    file.write_bytes(content)

    store = Store(folder)
    run = store.load(key)
    parts = {
        "config.json": lambda: run.config,
        "result.json": lambda: run.result,
        "metrics.parquet": run.metrics,
        "model.safetensors": run.tensors,
    }
    refused = set()
    for part, read in parts.items():
        try:
            read()
        except UserError as error:
            assert f"run {key} is damaged" in str(error)  # noqa: PT017
            refused.add(part)
    # A flipped bit of a checksum is that of one file.
    assert refused == {name} if name in parts else refused
    assert {(problem.kind, problem.name) for problem in store.verify(repair=True)} == {("damaged", key)}
    assert store.verify() == []
    assert not store.has(key)
    assert len(os.listdir(folder / "damaged")) == 1
    assert add(store) == key
    assert store.verify() == []
    assert [path.name for path in store.gc(damaged=True)] == ["damaged"]


def test_missing_and_foreign_files_are_found(tmp_path):
    store = Store(tmp_path)
    keys = [add(store, seed) for seed in range(3)]
    (tmp_path / "runs" / keys[0] / "metrics.parquet").unlink()
    (tmp_path / "runs" / keys[1] / "notes.txt").write_text("mine")
    shutil.rmtree(tmp_path / "runs" / keys[2])
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    found = {(problem.kind, problem.name, problem.text) for problem in store.verify(repair=True)}
    assert found == {
        ("damaged", keys[0], f"run {keys[0]} is damaged: metrics.parquet is missing."),
        ("damaged", keys[1], f"run {keys[1]} holds a file that is not its own: notes.txt."),
        ("missing", keys[2], f"run {keys[2]} is in the index, but has no folder."),
        ("foreign", "notes.txt", "runs/notes.txt is not a run; it is left alone."),
    }
    assert [problem.kind for problem in store.verify()] == ["foreign"]
    assert (tmp_path / "runs" / "notes.txt").read_text() == "mine"
    assert store.keys() == set()


def test_a_run_under_another_runs_name_is_found(tmp_path):
    store = Store(tmp_path)
    keys = [add(store, seed) for seed in range(2)]
    shutil.rmtree(tmp_path / "runs" / keys[0])
    shutil.copytree(tmp_path / "runs" / keys[1], tmp_path / "runs" / keys[0])
    assert {(problem.kind, problem.name) for problem in store.verify()} == {("damaged", keys[0])}


def test_a_row_that_is_not_what_was_written_is_found_and_corrected(tmp_path):
    store = Store(tmp_path)
    add(store)
    with sqlite3.connect(tmp_path / "index.sqlite") as db:
        db.execute("UPDATE runs SET config = ?", ('{"seed": 99}',))
    db.close()
    (problem,) = store.verify(repair=True)
    assert (problem.kind, problem.text) == ("index", "the index is damaged: a row is not what was written.")
    assert store.verify() == []
    assert store.rows()[0].config["seed"] == 0


def test_an_index_that_says_something_else_is_found_and_corrected(tmp_path):
    store = Store(tmp_path)
    key = add(store)
    other = Store(tmp_path / "other")
    config, result, digest = run_folder.summary(tmp_path / "runs" / key)
    index_of(other.path).insert([(1, key, config.replace('"seed": 0', '"seed": 9'), result, digest)])
    shutil.copy(tmp_path / "other" / "index.sqlite", tmp_path / "index.sqlite")
    for left in tmp_path.glob("index.sqlite-*"):
        left.unlink()
    assert [(problem.kind, problem.name) for problem in store.verify(repair=True)] == [("index", key)]
    assert store.verify() == []
    assert store.rows()[0].config["seed"] == 0


def test_a_damaged_folder_without_a_row_makes_room_for_the_run(tmp_path):
    key = add(Store(tmp_path))
    (tmp_path / "index.sqlite").unlink()
    (tmp_path / "runs" / key / "result.json").write_text("{")
    store = Store(tmp_path)
    assert not store.has(key)
    assert any("verify --repair" in text for text in store.notes)
    assert add(store) == key
    assert store.has(key)
    assert store.verify() == []
    assert len(os.listdir(tmp_path / "damaged")) == 1


def test_an_index_that_is_lost_or_no_database_is_made_again(tmp_path):
    keys = [add(Store(tmp_path), seed) for seed in range(3)]
    for content in (None, b"", b"not a database" * 100, bytes(5000)):
        if content is None:
            (tmp_path / "index.sqlite").unlink()
        else:
            (tmp_path / "index.sqlite").write_bytes(content)
        store = Store(tmp_path, create=False)
        assert [row.key for row in store.rows()] == keys
        assert len(store.notes) == 1
        assert Store(tmp_path).notes == []
    assert len(list(tmp_path.glob("index.sqlite.damaged-*"))) >= 1
    store.gc()
    assert list(tmp_path.glob("index.sqlite.damaged-*")) == []


def test_an_index_lost_under_an_open_store_is_made_again(tmp_path):
    store = Store(tmp_path)
    keys = [add(store, seed) for seed in range(2)]
    for read in (store.rows, store.keys, lambda: store.has(keys[0]), store.verify, lambda: add(store, 2)):
        for content in (None, b"garbage" * 500):
            (tmp_path / "index.sqlite").unlink(missing_ok=True)
            if content is not None:
                (tmp_path / "index.sqlite").write_bytes(content)
            read()
            assert set(keys) <= {row.key for row in store.rows()}
            assert "the index was made again" in store.notes[-1]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_index_never_costs_a_run_nor_shows_a_traceback(data, three_runs, tmp_path):
    source, keys = three_runs
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    shutil.copytree(source, folder, dirs_exist_ok=True)
    file = folder / "index.sqlite"
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        # Only the pages' beginnings and ends are in use.
        places = st.integers(0, 130) | st.integers(4096, 4160) | st.integers(0, len(content) - 1)
        for place in data.draw(st.lists(places, min_size=1, max_size=8)):
            content[place] ^= data.draw(st.integers(1, 255))
    else:
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    file.write_bytes(content)
    try:
        store = Store(folder)
        store.rows()
        store.verify(repair=True)
    except UserError as error:
        # A number in the header may have become that of another program or of another version.
        assert "er iclens" in str(error) or "another program" in str(error) or "the index" in str(error)  # noqa: PT017
        store = Store(folder, rebuild=True) if "another program" not in str(error) else None
    if store is not None:
        assert store.verify() == []
        assert {row.key for row in store.rows()} == set(keys)
    assert set(keys) <= set(os.listdir(folder / "runs"))
    assert all(run_folder.damage(folder / "runs" / key) == [] for key in keys)
