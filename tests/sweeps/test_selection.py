"""Runs as a flat table: what is filtered, sorted, compared and exported is what was stored."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import BufferReader, parquet
from tests.sweeps.small_runs import SmallConfig, add, metrics_of, result_of, tensors_of

from iclens.errors import UserError
from iclens.sweeps.export import export_bytes, format_of
from iclens.sweeps.selection import columns_of, differing, ordered, record, where
from iclens.sweeps.store import Store

RECORDS = [
    {"key": "a", "seed": 0, "rate": 0.1, "name": "linear", "flag": True, "shift": None},
    {"key": "b", "seed": 1, "rate": 0.1, "name": "sparse", "flag": False, "shift.name": "scale"},
    {"key": "c", "seed": 10, "rate": math.nan, "name": "linear", "flag": True, "shift": None, "final.loss": 2.0},
]


def keys(records):
    return "".join(one["key"] for one in records)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], "abc"),
        (["seed=1"], "b"),
        (["seed = 1.0"], "b"),
        (["seed!=1"], "ac"),
        (["seed<10"], "ab"),
        (["seed<=10"], "abc"),
        (["seed>0", "name=linear"], "c"),
        (["seed>=1"], "bc"),
        (["rate=0.1"], "ab"),
        (["rate<1"], "ab"),
        (["name='linear'"], "ac"),
        (["name>linear"], "b"),
        (["name<3"], ""),
        (["flag=true"], "ac"),
        (["flag=1"], ""),
        (["shift=none"], "ac"),
        (["shift.name=scale"], "b"),
        (["final.loss!=2"], "ab"),
    ],
)
def test_conditions_choose_rows(conditions, expected):
    assert keys(where(RECORDS, conditions)) == expected


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("seed", "'seed' is not a condition: write column=value"),
        ("=3", "'=3' is not a condition"),
        ("sed=3", "no run has a column 'sed'. Did you mean 'seed'"),
        ("loss<3", r"no run has a column 'loss'. Did you mean 'final\.loss'"),
    ],
)
def test_a_condition_that_cannot_be_met_by_any_is_refused(condition, message):
    with pytest.raises(UserError, match=message):
        where(RECORDS, [condition])


def test_numbers_are_sorted_as_numbers_and_what_is_missing_comes_last():
    assert keys(ordered(RECORDS, "seed")) == "abc"
    assert keys(ordered(RECORDS, "seed", reverse=True)) == "cba"
    assert keys(ordered(RECORDS, "rate")) == "abc"
    assert keys(ordered(RECORDS, "rate", reverse=True)) == "abc"
    assert keys(ordered(RECORDS, "final.loss", reverse=True)) == "cab"
    assert ordered([], "anything") == []
    with pytest.raises(UserError, match="no run has a column 'seeds'"):
        ordered(RECORDS, "seeds")


@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(0, 1) | st.just(math.nan), max_size=3),
        max_size=4,
    )
)
def test_what_differs_is_what_has_more_than_one_value(rows):
    shown = {name: {repr(row[name]) if name in row else "absent" for row in rows} for name in columns_of(rows)}
    assert differing(rows) == [name for name in columns_of(rows) if len(shown[name]) > 1]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "s")
    for seed in range(3):
        add(store, seed, learning_rate=0.1 * (seed + 1))
    store.add(
        SmallConfig(9, task='a,"b"\n'),
        tensors_of(9),
        [(0, "loss", None, math.nan)],
        result_of(status="diverged", last_finite_step=0),
    )
    return store


def test_every_format_has_the_same_runs(store):
    records = [record(row) for row in store.rows()]
    names = columns_of(records)
    assert names[:6] == ["key", "status", "seconds", "last_finite_step", "seed", "task.name"]

    from_json = json.loads(export_bytes(store, "json"))
    assert from_json[:3] == records[:3]
    assert from_json[3]["final.loss"] is None

    header, *lines = csv.reader(io.StringIO(export_bytes(store, "csv").decode()))
    assert header == names
    for line, one in zip(lines, records, strict=True):
        assert line[names.index("key")] == one["key"]
        assert line[names.index("task.name")] == one["task.name"]
        assert float(line[names.index("training.learning_rate")]) == one["training.learning_rate"]
        assert line[names.index("shift")] == ""
        assert json.loads(line[names.index("training.betas")]) == [0.9, 0.999]

    table = parquet.ParquetFile(BufferReader(export_bytes(store, "parquet"))).read(use_threads=False)
    assert table.column_names == names
    assert table.column("seed").to_pylist() == [0, 1, 2, 9]
    assert table.column("final.loss").to_pylist()[:3] == [one["final.loss"] for one in records[:3]]
    assert table.column("final.error@3").to_pylist() == [one.get("final.error@3") for one in records]


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_every_format_has_the_same_metrics(store, kind):
    keys = [row.key for row in store.rows()][1:3]
    content = export_bytes(store, kind, what="metrics", keys=keys)
    expected = [(key, *row) for key, seed in zip(keys, (1, 2), strict=True) for row in metrics_of(seed)]
    if kind == "csv":
        rows = [
            (key, int(step), name, int(prefix) if prefix else None, float(value))
            for key, step, name, prefix, value in list(csv.reader(io.StringIO(content.decode())))[1:]
        ]
    elif kind == "json":
        rows = [tuple(one.values()) for one in json.loads(content)]
    else:
        table = parquet.ParquetFile(BufferReader(content)).read(use_threads=False)
        rows = [tuple(one.values()) for one in table.to_pylist()]
    assert rows == expected


def test_an_empty_store_is_exported(tmp_path):
    store = Store(tmp_path / "s")
    assert export_bytes(store, "json") == b"[]"
    assert export_bytes(store, "csv", what="metrics") == b"key,step,name,prefix,value\n"
    for what in ("runs", "metrics"):
        assert parquet.ParquetFile(BufferReader(export_bytes(store, "parquet", what=what))).metadata.num_rows == 0


def test_a_column_of_several_kinds_becomes_text(tmp_path):
    store = Store(tmp_path / "s")
    for seed, task in ((0, 3), (1, "x"), (2, 2**70)):
        store.add(SmallConfig(seed, task=task), {}, [], result_of())
    table = parquet.ParquetFile(BufferReader(export_bytes(store, "parquet"))).read(use_threads=False)
    assert table.column("task.name").to_pylist() == ["3", "x", str(2**70)]


def test_what_cannot_be_exported_is_refused(store, tmp_path):
    with pytest.raises(UserError, match=r"name a file that ends in \.csv, \.parquet or \.json"):
        format_of(tmp_path / "runs.txt")
    assert format_of(tmp_path / "runs.CSV") == "csv"
    with pytest.raises(UserError, match="no run '00'"):
        export_bytes(store, "csv", keys=["00"])
