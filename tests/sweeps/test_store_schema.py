"""A store of another schema is refused and left as it is, and no order depends on a clock."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3

import pytest
from tests.sweeps.small_runs import SmallConfig, add, index_of, metrics_of, result_of, tensors_of

from iclens.errors import UserError
from iclens.sweeps.result import Result
from iclens.sweeps.store import Store
from iclens.work.sealed import sealed

BACKWARDS = ["2026-03-01T00:00:00.000+00:00", "2026-02-01T00:00:00.000+00:00", "2026-01-01T00:00:00.000+00:00"]


def write_schema(folder, schema):
    """Write another version into the index, as an iclens with that schema would have."""
    db = sqlite3.connect(folder / "index.sqlite")
    db.execute(f"PRAGMA user_version = {schema}")
    db.close()


def test_a_run_is_of_another_schema_only_if_its_seal_says_so(tmp_path):
    store = Store(tmp_path)
    key = add(store)
    path = tmp_path / "runs" / key / "checksums.json"
    text = path.read_text()
    for digit in "0136789":
        path.write_text(text.replace('"schema": 2', f'"schema": {digit}'))
        with pytest.raises(UserError, match=f"run {key} is damaged"):
            store.load(key).metrics()


@pytest.mark.parametrize(("schema", "age"), [(1, "an older"), (3, "a newer")])
def test_another_schema_is_refused_and_not_touched(tmp_path, schema, age):
    key, other = (add(Store(tmp_path), seed) for seed in (0, 1))
    write_schema(tmp_path, schema)
    file = tmp_path / "runs" / other / "checksums.json"
    changed = json.loads(file.read_text()) | {"schema": schema}
    if schema == 1:
        del changed["sha256"]  # schema 1 had no seal
    else:
        changed = sealed(changed)
    file.write_text(json.dumps(changed, indent=1) + "\n")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(
        UserError, match=rf"{tmp_path} was written by {age} iclens \(schema {schema}; this one reads 2\)"
    ):
        Store(tmp_path)
    for lost in (False, True):
        if lost:
            before.pop(tmp_path / "index.sqlite")
            (tmp_path / "index.sqlite").unlink()
        with pytest.raises(UserError, match=rf"run {other} was written by {age} iclens"):
            Store(tmp_path, rebuild=True)
    assert {file: data for file, data in before.items() if file.read_bytes() != data} == {}
    assert {key, other} <= set(os.listdir(tmp_path / "runs"))


def test_an_index_whose_version_is_damaged_is_made_again_on_demand(tmp_path):
    key = add(Store(tmp_path))
    write_schema(tmp_path, 7)
    with pytest.raises(UserError, match="its index is damaged: `iclens runs verify --rebuild`"):
        Store(tmp_path)
    assert Store(tmp_path, rebuild=True).keys() == {key}


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


def test_results_are_read_as_written_and_numbers_are_numbers():
    result = result_of(number=3, processes=2)
    assert Result.from_json(result.to_json()) == result
    assert result.order < result_of(number=4, ended="1970").order
    for changes in ({"number": -1}, {"processes": 0}, {"processes": True}, {"number": 2**60}):
        with pytest.raises(UserError, match="of a run must be a whole number"):
            result_of(**changes)
