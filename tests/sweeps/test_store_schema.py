"""A store of an older schema is brought to this one whole or not at all, and no order depends on a clock.

`store_of_schema_1.zip` is a store as iclens wrote it before schema 2, byte for byte: the runs of `small_runs.py` with
the seeds 5, 2 and 9, added in that order by a machine whose clock was set back two months after the first.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import sqlite3
import zipfile
from pathlib import Path

import pytest
import torch
from tests.sweeps.small_runs import SmallConfig, add, index_of, metrics_of, result_of, tensors_of

from iclens.errors import UserError
from iclens.sweeps import index, run_folder
from iclens.sweeps.index import Index
from iclens.sweeps.result import Result
from iclens.sweeps.store import Store
from iclens.training.metric import Metric
from iclens.work.sealed import sealed

KEYS = [SmallConfig(seed).key() for seed in (5, 2, 9)]
BACKWARDS = ["2026-03-01T00:00:00.000+00:00", "2026-02-01T00:00:00.000+00:00", "2026-01-01T00:00:00.000+00:00"]


@pytest.fixture
def old(tmp_path):
    """A copy of the store of schema 1, and its files."""
    folder = tmp_path / "old"
    with zipfile.ZipFile(Path(__file__).with_name("store_of_schema_1.zip")) as archive:
        archive.extractall(folder)
    return folder, {path: path.read_bytes() for path in (folder / "runs").rglob("*") if path.is_file()}


def schema_of(folder):
    db = sqlite3.connect(folder / "index.sqlite")
    try:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return db.execute("PRAGMA user_version").fetchone()[0], tables
    finally:
        db.close()


def test_a_store_of_schema_1_is_brought_to_this_one(old):
    folder, files = old
    assert schema_of(folder) == (1, {"runs"})
    store = Store(folder)
    assert store.notes == ["the store was brought to this version's schema."]
    assert schema_of(folder) == (run_folder.SCHEMA, {"runs"})
    assert [row.key for row in store.rows()] == KEYS
    assert [row.result.ended[:7] for row in store.rows()] == ["2026-03", "2026-01", "2026-01"]
    for seed, key in zip((5, 2, 9), KEYS, strict=True):
        run = store.load(key)
        assert run.metrics() == [Metric(*row) for row in metrics_of(seed)]
        assert all(torch.equal(run.tensors()[name], value) for name, value in tensors_of(seed).items())
        assert (run.result.number, run.result.processes) == (0, 1)
    assert store.verify() == []
    # Finished runs are not touched.
    assert {path: path.read_bytes() for path in files} == files
    again = Store(folder)
    assert again.notes == []
    assert not store.add(SmallConfig(5), tensors_of(0), [], result_of())
    added = add(again, 0)
    assert [row.key for row in again.rows()] == [*KEYS, added]
    assert again.load(added).result.number == 4
    assert again.verify() == []


def test_runs_of_both_schemas_are_listed_anew(old):
    folder, _ = old
    added = [add(Store(folder), seed) for seed in (1, 0)]
    (folder / "index.sqlite").unlink()
    # What schema 1 did not write down only its clock can tell; its runs are older than all others.
    assert [row.key for row in Store(folder).rows()] == [KEYS[1], KEYS[2], KEYS[0], *added]
    assert Store(folder).verify() == []


def test_a_migration_that_fails_leaves_the_old_index(old, monkeypatch):
    folder, _ = old
    numbered = index.MIGRATIONS[1]

    def interrupted(db, path):
        numbered(db, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(index.MIGRATIONS, 1, interrupted)
        with pytest.raises(KeyboardInterrupt):
            Store(folder)
    assert schema_of(folder) == (1, {"runs"})
    assert [row.key for row in Store(folder).rows()] == KEYS


def migrating(path):
    numbered = index.MIGRATIONS[1]

    def killed(db, folder):
        numbered(db, folder)
        os._exit(9)

    index.MIGRATIONS[1] = killed
    Store(path)


def test_a_process_killed_in_the_middle_of_a_migration_leaves_the_old_index(old):
    folder, _ = old
    process = multiprocessing.get_context("fork").Process(target=migrating, args=(folder,))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert schema_of(folder) == (1, {"runs"})
    assert [row.key for row in Store(folder).rows()] == KEYS
    assert Store(folder).verify() == []


def test_a_store_of_schema_1_that_cannot_be_written_is_read_from_its_folders(old, monkeypatch):
    folder, files = old
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK)
    store = Store(folder, create=False)
    assert store.read_only
    assert store.keys() == set(KEYS)
    assert store.verify() == []
    assert schema_of(folder)[0] == 1
    assert {path: path.read_bytes() for path in files} == files


def test_a_damaged_run_of_schema_1_is_found(old):
    folder, _ = old
    path = folder / "runs" / KEYS[0] / "checksums.json"
    text = path.read_text()
    for wrong in (text.replace('"schema": 1', '"schema": 3'), text.replace('"schema": 1', '"schema": 0'), text + " "):
        path.write_text(wrong)
        assert {(problem.kind, problem.name) for problem in Store(folder).verify()} == {("damaged", KEYS[0])}
    path.write_text(text)
    assert Store(folder).verify() == []


def test_a_schema_is_newer_only_if_its_seal_says_so(tmp_path):
    store = Store(tmp_path)
    key = add(store)
    path = tmp_path / "runs" / key / "checksums.json"
    text = path.read_text()
    for digit in "0136789":
        path.write_text(text.replace('"schema": 2', f'"schema": {digit}'))
        with pytest.raises(UserError, match=f"run {key} is damaged"):
            store.load(key).metrics()


def test_a_newer_schema_is_refused_and_not_touched(tmp_path):
    key, other = (add(Store(tmp_path), seed) for seed in (0, 1))
    Index(tmp_path / "index.sqlite", schema=3, migrations={2: lambda db, folder: None}).migrate()
    file = tmp_path / "runs" / other / "checksums.json"
    newer = sealed(json.loads(file.read_text()) | {"schema": 3})
    file.write_text(json.dumps(newer, indent=1) + "\n")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=r"written by a newer iclens \(store schema 3; .* up to 2\): update iclens"):
        Store(tmp_path)
    for lost in (False, True):
        if lost:
            before.pop(tmp_path / "index.sqlite")
            (tmp_path / "index.sqlite").unlink()
        with pytest.raises(UserError, match=rf"run {other} was written by a newer iclens"):
            Store(tmp_path, rebuild=True)
    assert {file: data for file, data in before.items() if file.read_bytes() != data} == {}
    assert {key, other} <= set(os.listdir(tmp_path / "runs"))


def test_an_older_schema_is_migrated_or_refused(tmp_path):
    key = add(Store(tmp_path))
    seen = []
    newer = Index(index_of(tmp_path).path, schema=3, migrations={})
    assert newer.state() == "older"
    with pytest.raises(UserError, match=r"store schema 2, which this iclens cannot bring to 3"):
        newer.migrate()
    assert (index_of(tmp_path).state(), newer.state()) == ("ours", "older")
    steps = {2: lambda db, folder: seen.append((folder, *db.execute("SELECT key FROM runs")))}
    newer = dataclasses.replace(newer, migrations=steps)
    newer.migrate()
    assert seen == [(tmp_path, (key,))]
    assert newer.state() == "ours"
    assert newer.keys() == {key}


# Clocks.


@pytest.mark.parametrize("ends", [BACKWARDS, [BACKWARDS[0]] * 3, [BACKWARDS[1], BACKWARDS[0], BACKWARDS[2]]])
def test_a_clock_that_jumps_changes_no_order(tmp_path, ends):
    store, seeds = Store(tmp_path), (4, 0, 7)
    keys = [SmallConfig(seed).key() for seed in seeds]
    for seed, end in zip(seeds, ends, strict=True):
        assert store.add(SmallConfig(seed), tensors_of(seed), metrics_of(seed), result_of(ended=end))
    assert [row.key for row in store.rows()] == keys
    assert [row.result.number for row in store.rows()] == [1, 2, 3]
    (tmp_path / "index.sqlite").unlink()
    assert [row.key for row in Store(tmp_path).rows()] == keys
    index_of(store.path).delete(keys[:2])
    assert [row.key for row in Store(tmp_path).rows()][1:] == keys[:2]
    assert [row.key for row in Store(tmp_path, rebuild=True).rows()] == keys


def test_numbers_grow_whatever_was_removed_or_made_again(tmp_path):
    store = Store(tmp_path)
    keys = [add(store, seed) for seed in range(4)]
    store.remove(keys[1])
    store = Store(tmp_path, rebuild=True)
    keys = [keys[0], *keys[2:], add(store, 9)]
    assert [row.result.number for row in store.rows()] == [1, 3, 4, 5]
    assert [row.key for row in Store(tmp_path, rebuild=True).rows()] == keys


def test_two_writers_that_took_one_number_both_have_a_row(tmp_path):
    both = [Store(tmp_path / name) for name in ("a", "b")]
    first, second = (add(store, seed) for store, seed in zip(both, (0, 1), strict=True))
    shutil.copytree(tmp_path / "b" / "runs" / second, tmp_path / "a" / "runs" / second)
    store = Store(tmp_path / "a")
    assert [row.result.number for row in store.rows()] == [1, 1]
    assert [row.key for row in store.rows()] == [first, second]
    third = add(store, 2)
    assert store.load(third).result.number == 3
    assert store.verify() == []


def test_results_of_schema_1_are_read_and_numbers_are_numbers():
    result = result_of(number=3, processes=2)
    assert Result.from_json(result.to_json()) == result
    assert result.order < result_of(number=4, ended="1970").order
    for changes in ({"number": -1}, {"processes": 0}, {"processes": True}, {"number": 2**60}):
        with pytest.raises(UserError, match="of a run must be a whole number"):
            result_of(**changes)
