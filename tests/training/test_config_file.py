"""A configuration is read as it was written, and what is wrong in it is said with its place."""

from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iclens.errors import UserError
from iclens.training.config import RunConfig
from iclens.training.config_file import parse_value, presets, read_config, toml_text
from iclens.training.dotted_paths import assign, flatten, join_path, remove, split_path

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
TABLES = st.dictionaries(TEXTS, VALUES, max_size=4)


@given(data=TABLES)
def test_toml_text_is_read_back(data):
    assert tomllib.loads(toml_text(data)) == data


def test_toml_text_leaves_out_what_has_no_value():
    assert toml_text({"shift": None, "seed": 1, "task": {"d": None, "name": "linear"}}) == (
        'seed = 1\n\n[task]\nname = "linear"\n'
    )


@given(keys=st.lists(TEXTS, min_size=1, max_size=4).map(tuple))
def test_a_path_is_split_as_it_was_joined(keys):
    path = join_path(keys)
    if any(letter in path for letter in "=#"):
        with pytest.raises(UserError):
            split_path(path)
    else:
        assert split_path(path) == keys


@given(data=TABLES)
def test_the_flat_values_make_the_same_tables_again(data):
    again = {}
    for path, value in flatten(data).items():
        if any(letter in path for letter in "=#"):
            return
        assign(again, path, value)
    assert again == data


def test_what_was_assigned_can_be_removed():
    data = {"task": {"d": 5}}
    assign(data, "training.rates.read_out", 2.0)
    assert data == {"task": {"d": 5}, "training": {"rates": {"read_out": 2.0}}}
    remove(data, "training.rates.read_out")
    remove(data, "task.d.deeper")
    remove(data, "nothing.here")
    assert data == {"task": {"d": 5}, "training": {"rates": {}}}


@pytest.mark.parametrize("suffix", [".toml", ".json", ".TOML"])
def test_toml_and_json_say_the_same(tmp_path, suffix):
    data = {"seed": 3, "task": {"name": "linear", "d": 5}, "training": {"learning_rate": 1e-3, "betas": [0.9, 0.99]}}
    path = tmp_path / f"run{suffix}"
    path.write_text(json.dumps(data) if suffix == ".json" else toml_text(data))
    assert read_config(path) == data


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "run.toml").write_bytes(b"\xef\xbb\xbfseed = 3\r\n")
    assert read_config(tmp_path / "run.toml") == {"seed": 3}


def test_overrides_are_applied_in_order(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('seed = 0\n[task]\nname = "linear"\nd = 5\n[shift]\nname = "scale"\n')
    overrides = [
        "model.n_layers=3",
        "training.learning_rate=1e-3",
        "task.name=sparse-linear",
        "model.attention=negative",
        'model.label="a = b"',
        "training.betas=[0.8, 0.9]",
        'training.rates."layers.0" = 2',
        "model.residual=false",
        "shift=",
        "seed=1",
        "seed=2",
    ]
    assert read_config(str(path), overrides) == {
        "seed": 2,
        "task": {"name": "sparse-linear", "d": 5},
        "model": {"n_layers": 3, "attention": "negative", "label": "a = b", "residual": False},
        "training": {"learning_rate": 1e-3, "betas": [0.8, 0.9], "rates": {"layers.0": 2}},
    }


@given(text=TEXTS)
def test_a_value_is_toml_or_itself(text):
    value = parse_value(text)
    try:
        expected = tomllib.loads(f"value = {text.strip()}")
    except tomllib.TOMLDecodeError:
        expected = {"value": text.strip()}
    assert value == expected.get("value") or value != value
    assert parse_value("1\nother = 2") == "1\nother = 2"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.toml", "seed = 1\ntask = [", r"run\.toml is not valid TOML: .*line 2"),
        ("run.toml", "seed = 1\nseed = 2", r"not valid TOML: .*line 2"),
        ("run.json", '{"seed": 1,\n "task" 2}', r"run\.json is not valid JSON: .*line 2"),
        ("run.json", '{"seed": 1, "seed": 2}', r"key 'seed' is given twice"),
        ("run.json", '{"training": {"clip": NaN}}', r"NaN is not a finite number"),
        ("run.json", "[1]", r"run\.json must hold a table of keys and values, not list"),
        ("run.json", "[" * 100_000, r"nested too deeply"),
        ("run.json", "1" * 5000, r"not valid JSON"),
        ("run.toml", "[training]\nclip = inf", r"run\.toml: training\.clip=inf must be finite"),
        ("run.toml", "[training]\nbetas = [0.9, nan]", r"training\.betas=nan must be finite"),
        ("run.toml", "[task]\nday = 2024-01-01", r"task\.day=2024-01-01 must be a number, a string"),
        ("run.yaml", "seed: 1", r"run\.yaml: a configuration is a file that ends in \.toml or \.json"),
    ],
)
def test_a_broken_file_is_answered_with_its_place(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_config(tmp_path / name)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.toml: there is no such file"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UserError, match=r"folder\.toml cannot be read"):
        read_config(tmp_path / "folder.toml")
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe9"')
    with pytest.raises(UserError, match=r"latin\.toml is not UTF-8 \(byte 5\)"):
        read_config(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.steps", r"override 'training\.steps' has no '='"),
        ("seed.first=1", r"override 'seed\.first=1': seed\.first cannot be set: seed is 0, not a table"),
        ("=1", r"override '=1': '' is not a dotted path"),
        ("a b=1", r"'a b' is not a dotted path"),
        ("training.clip=nan", r"training\.clip=nan must be finite"),
        ("training..clip=1", r"'training\.\.clip' is not a dotted path"),
    ],
)
def test_a_broken_override_is_quoted(tmp_path, override, message):
    (tmp_path / "run.toml").write_text("seed = 0\n")
    with pytest.raises(UserError, match=message):
        read_config(tmp_path / "run.toml", [override])


def test_presets_are_found_by_name(tmp_path):
    (tmp_path / "linear-small.toml").write_text("seed = 4\n")
    (tmp_path / "notes.txt").write_text("")
    assert presets(tmp_path) == ["linear-small"]
    assert read_config("linear-small", ["seed=5"], tmp_path) == {"seed": 5}
    with pytest.raises(UserError, match=r"no preset 'linear-smal'\. Did you mean 'linear-small'\?"):
        read_config("linear-smal", folder=tmp_path)


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_a_run(name):
    RunConfig.from_dict(read_config(name)).check()


def test_a_stored_configuration_read_from_its_toml_is_the_same_run():
    config = RunConfig.from_dict({"seed": 7, "training": {"rates": {"read_out": 2.0}, "betas": [0.5, 0.6]}})
    assert RunConfig.from_dict(tomllib.loads(toml_text(config.to_dict()))).key() == config.key()
