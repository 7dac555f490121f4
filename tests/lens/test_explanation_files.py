"""Explanations on disk: what an older iclens wrote reads, and what is damaged or newer says so in one sentence."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.report.sample import make

from iclens import Explanation, UserError
from iclens.lens import COLUMNS, SCHEMA_VERSION

KNOCKED = {"demonstrations": [0], "margin": 0.5, "margin_change": 1.5, "log_probability_change": 0.25}
EFFECT = {
    "index": 0, "text": "cat is vux .", "n_tokens": 4, "gradient_step": 1.25, "path": 1.0, "knock_out": KNOCKED,
    "rerun_margin_change": None, "by_layer_and_head": [[1.0, 0.25]],
}  # fmt: skip
VERSION_1 = {
    "schema_version": 1,
    "exact": True,
    "model": {
        "name": "bundled", "family": "gpt2", "n_layers": 1, "n_heads": 2, "n_parameters": 100, "dtype": "float32",
        "context_length": 128,
    },
    "prompt": "cat is vux .\n\ndog is",
    "tokens": [
        {"text": "cat is vux .", "part": 0, "role": "demonstration", "gradient_step": 1.25, "path": 1.0},
        {"text": "\n\ndog is", "part": None, "role": "query", "gradient_step": 0.5, "path": 1.0},
    ],
    "next_tokens": [{"text": " vux", "token_id": 7, "probability": 0.5, "logit": 3.0}],
    "candidates": [],
    "answer": " vux",
    "margin": 2.0,
    "margin_definition": "The logit of ' vux' minus the mean logit of the others.",
    "demonstrations": [EFFECT],
    "others": [
        {"name": "query", "gradient_step": 0.5, "path": 0.5},
        {"name": "biases", "gradient_step": None, "path": 1},
    ],
    "residuals": [
        {"name": "captured attention against the model's own", "value": 1e-7, "tolerance": 1e-5, "holds": True},
        {"name": "path parts against the margin", "value": None, "tolerance": 1e-5, "holds": False},
    ],
    "agreement": [{"first": "gradient_step", "second": "path", "spearman": None, "top_k": 1.0, "k": 1}],
    "group_knock_outs": [KNOCKED],
    "faithfulness": [],
    "notes": [],
    "cost": {"forward_passes": 3.5, "backward_passes": 1.0, "seconds": {"trace": 0.5}},
    "command": "iclens explain --model bundled",
}  # fmt: skip
CURRENT = json.loads(json.dumps(make(2, 20).to_dict()))


def load(document, tmp_path, name="e.json"):
    path = tmp_path / name
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return Explanation.load(path)


def test_a_file_of_version_1_is_read(tmp_path):
    found = load(VERSION_1, tmp_path)
    (effect,) = found.demonstrations
    assert found.scores == ("gradient_step", "path", "knock_out")
    assert [effect.score(name) for name in found.scores] == [1.25, 1.0, 1.5]
    assert (effect.label, effect.score("rerun")) == (None, None)
    assert found.answer_log_probability == pytest.approx(-0.6931472)
    assert [residual.holds for residual in found.residuals] == [True, False]
    assert not found.exact
    assert str(found).startswith("Do not trust these numbers")
    (row,) = found.to_rows()
    assert (row["residual_capture"], row["other_path"], row["knock_out"]) == (1e-7, 1.5, 1.5)
    found.save(tmp_path / "new.json")
    # NaN is no number equal to itself, so the numbers are compared as they are written.
    assert Explanation.load(tmp_path / "new.json").to_dict() == found.to_dict() | {"schema_version": SCHEMA_VERSION}


def test_a_file_of_version_1_with_candidates_and_deleted_text(tmp_path):
    old = copy.deepcopy(VERSION_1)
    old["candidates"] = [
        {"text": text, "tokens": [text], "log_probability": value, "probability": 0.1, "chosen": text == "nef"}
        for text, value in (("vux", -0.1), ("nef", -2.5))
    ]
    old["demonstrations"][0]["rerun_margin_change"] = 0.75
    found = load(old, tmp_path)
    assert found.answer_log_probability == -2.5
    assert found.scores[-1] == "rerun"
    assert found.sources[0].score("rerun") == 0.75


def test_version_2_knew_no_first_token(tmp_path):
    old = CURRENT | {
        "schema_version": 2,
        "others": [one for one in CURRENT["others"] if one["name"] != "first"],
        "tokens": [one | {"role": "special" if one["role"] == "first" else one["role"]} for one in CURRENT["tokens"]],
    }
    found = load(old, tmp_path)
    assert found.schema_version == SCHEMA_VERSION
    assert found.to_rows()[0]["first_token_path"] is None
    assert found.to_rows()[0]["other_path"] == sum(one.path for one in found.others)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is not JSON, which alone is read back"),
        ("[1]", "is no explanation: it has no schema_version"),
        ({"exact": True}, "is no explanation: it has no schema_version"),
        ({"schema_version": "2"}, "is no explanation: it has no schema_version"),
        ({"schema_version": 0}, "is no explanation: it has no schema_version"),
        (CURRENT | {"schema_version": 6}, "has the schema version 6, and this iclens reads .* 5: upgrade iclens"),
        ({"schema_version": 1}, "is no explanation of schema version 1: it lacks '\\w+'"),
        (VERSION_1 | {"demonstrations": ["x"]}, "is no explanation of schema version 1: "),
        (VERSION_1 | {"next_tokens": []}, "is no explanation of schema version 1: "),
        ({"schema_version": 2}, "is no explanation of schema version 2: it lacks '\\w+'"),
        (CURRENT | {"margin": "large"}, "is no explanation of schema version 5: 'large' is no float"),
        (CURRENT | {"residuals": []}, "is no explanation of schema version 5: 'residuals' is empty"),
        (CURRENT | {"sources": 3}, "is no explanation of schema version 5: "),
        (CURRENT | {"pairs": CURRENT["pairs"] | {"noise": []}}, "'noise' is no table of"),
        (CURRENT | {"pairs": CURRENT["pairs"] | {"redundant": [[]]}}, "a group of 'pairs' is empty"),
        (CURRENT | {"influence_at": {"weight": 0, "margin": 1.0}}, "the weight 0 is not between 0 and 1"),
    ],
)
def test_a_file_that_is_none_is_one_clear_sentence(document, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        load(document, tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "e.json"))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        Explanation.load(tmp_path / "none.json")


def places(document, at=()):
    """The way to every value."""
    yield at
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inner:
        yield from places(value, (*at, key))


JUNK = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({})


@settings(max_examples=150, deadline=None)
@given(data=st.data(), version=st.sampled_from([VERSION_1, CURRENT]), junk=JUNK | st.just("gone"))
def test_a_value_anywhere_is_read_and_shown_or_refused(data, version, junk, tmp_path_factory):
    document = copy.deepcopy(version)
    *way, last = data.draw(st.sampled_from([at for at in places(version) if at]))
    inside = document
    for key in way:
        inside = inside[key]
    if junk == "gone":
        del inside[last]
    else:
        inside[last] = junk
    try:
        found = load(document, tmp_path_factory.getbasetemp())
    except UserError:
        return
    assert str(found)
    assert all(list(row) == [name for name, _, _ in COLUMNS] for row in found.to_rows())
