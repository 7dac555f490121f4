"""Tables of measurements: rows of different kinds, and JSON and back."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclens.recipes.table import Table

cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False),
    st.text(st.characters(categories=("L", "N", "P", "Zs")), max_size=5).filter(
        lambda t: t not in ("nan", "inf", "-inf")
    ),
)
tables = st.lists(st.dictionaries(st.sampled_from("abcd"), cells, min_size=1), max_size=5)


@given(tables)
def test_table_survives_json(rows):
    table = Table(rows)
    text = json.dumps(table.to_columns(), allow_nan=False)
    assert Table.from_json_columns(json.loads(text)) == Table.from_json_columns(table.to_columns())
    back = Table.from_json_columns(json.loads(text))
    full = [{name: cell for name, cell in row.items() if cell is not None} for row in rows]
    assert [dict(row) for row in back] == full or not any(full)


def test_table_keeps_what_json_cannot_write():
    table = Table([{"a": math.inf}, {"a": -math.inf}, {"a": math.nan}, {"b": 1}])
    back = Table.from_json_columns(json.loads(json.dumps(table.to_columns(), allow_nan=False)))
    np.testing.assert_array_equal(back.column("a"), [math.inf, -math.inf, math.nan, math.nan])
    assert back.to_csv() == "a,b\ninf,\n-inf,\nnan,\n,1\n"


def test_table_rows_of_different_kinds_stand_side_by_side():
    table = Table([{"kind": "curve", "x": 1, "y": torch.tensor(2.0)}, {"kind": "end", "total": np.float64(3)}])
    assert table.names == ("kind", "x", "y", "total")
    assert table.cells("y") == [2.0, None]
    assert len(table.only("total")) == 1
    assert table.where(kind="curve").column("y").tolist() == [2.0]
    assert table.where(total=None).unique("kind") == ["curve"]
    assert Table([{"a": 2}, {"b": 0}, {"a": 1.5}, {"a": 2}, {"a": math.nan}]).numbers("a") == [1.5, 2.0]
    assert Table.from_columns({"a": [2, 1], "b": ["x", "y"]}).sorted_by("a").cells("b") == ["y", "x"]


def test_table_refuses_what_is_no_cell():
    with pytest.raises(TypeError, match="column 'a': list"):
        Table([{"a": [1]}])
    with pytest.raises(KeyError, match="no column 'b'; there are a"):
        Table([{"a": 1}]).column("b")
    with pytest.raises(ValueError, match="already have a column 'a'"):
        Table([{"a": 1}]).with_cells(a=2)
    with pytest.raises(ValueError, match="argument 2"):
        Table.from_columns({"a": [1], "b": [1, 2]})
