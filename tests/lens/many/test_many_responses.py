"""Responses of many prompts: what a row says itself, and the numbers of one prompt at a time."""

from __future__ import annotations

import re

import pytest
from tests.lens.many_prompts import PROMPTS, reader

from iclens.errors import UserError
from iclens.lens.building import SCORES
from iclens.lens.explaining import explain, explain_many

RESPONSE = "w5 w6 is w7 . w8 w9"
TEXTS = [prompt.text for prompt in PROMPTS]
ROWS = [
    {"prompt": TEXTS[0], "response": RESPONSE},
    {"prompt": TEXTS[1], "generate": 5},
    {"prompt": TEXTS[2], "response": RESPONSE, "statement": "w8 w9"},
    {"prompt": TEXTS[3], "response": "w5", "measure": "logit"},
    {"prompt": TEXTS[4], "response": RESPONSE, "foil": "w1 w2"},
    {"prompt": TEXTS[0], "answers": ["w1", "w2"]},
    {"prompt": TEXTS[1]},
    {"prompt": TEXTS[2], "statement": "w8"},
]
SHARED = {"response": "w7 . w8 w9", "instruction_blocks": 0}


def same(ours, theirs):
    """Two plain documents, their numbers to rounding."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            same(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            same(mine, other)
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=1e-7, abs=1e-9)
    else:
        assert ours == theirs


def comparable(found):
    document = found.to_dict()
    for key in ("cost", "residuals", "command", "notes"):
        del document[key]
    return document


@pytest.mark.parametrize("how", [{}, {"within": "lines", "budget": 2}, {"matrix": False}])
def test_many_are_what_each_is_alone(how):
    model = reader("gpt2")
    many = list(explain_many(model, ROWS, response=SHARED["response"], grounding=True, most_tokens=100, **how))
    assert [one.response is None for one in many] == [False] * 5 + [True] + [False] * 2
    assert [one.response.text for one in many[6:]] == [SHARED["response"]] * 2
    assert many[7].response.statement == "w8"
    for row, beside in zip(ROWS, many, strict=True):
        own = {key: value for key, value in row.items() if key != "prompt"}
        said = {} if {"response", "generate", "answers"} & own.keys() else {"response": SHARED["response"]}
        alone = explain(model, row["prompt"], grounding=True, **({"scores": SCORES} | said | own | how))
        assert beside.exact
        same(comparable(beside), comparable(alone))


def test_rows_hold_the_responses_numbers():
    for found in explain_many(reader("gpt2"), ROWS[:3], within="lines", scores=["influence"]):
        response = found.response
        for effect, row in zip(found.sources, found.to_rows(), strict=True):
            assert row["response"] == response.text
            assert row["statement"] == response.statement
            assert row["measure"] == "log_probability"
            assert row["response_tokens"] == list(response.tokens)
            assert sum(row["response_log_probabilities"][response.first : response.last]) == pytest.approx(
                row["margin"]
            )
            read = row["token_influence"][response.first : response.last]
            assert sum(read) == pytest.approx(row["scores"]["influence"], rel=1e-8, abs=1e-10)
            if response.statements:
                assert sum(row["statement_influence"]) == pytest.approx(row["scores"]["influence"], rel=1e-8, abs=1e-10)
                assert "".join(row["statements"]).replace(" ", "") == response.text.replace(" ", "")
            assert sum(row["piece_scores"]) == pytest.approx(row["scores"]["influence"], rel=1e-8, abs=1e-10)
            assert row["pieces"] == [one.text for one in effect.pieces]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"response": " "}, "prompt 1: the response is empty"),
        ({"response": 3}, 'prompt 1: "response" is a JSON number'),
        ({"generate": "3"}, "prompt 1: \"generate\" is '3'"),
        ({"generate": 300}, "prompt 1: the prompt has"),
        ({"generate": 3, "response": "w1"}, "prompt 1: a response is given and another"),
        ({"statement": "w1"}, "prompt 1: the statement 'w1' is for a response"),
        ({"response": "w1", "answers": ["w1"]}, "prompt 1: a response takes the place of answers"),
        ({"response": "w1", "measure": "odds"}, "prompt 1: the measure is 'odds'"),
        ({"generate": 3, "statement": "xyz"}, "prompt 1: the statement 'xyz' does not occur"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(row, message):
    with pytest.raises(UserError, match=re.escape(message)):
        list(explain_many(reader("gpt2"), [TEXTS[0], {"prompt": TEXTS[1]} | row]))
