"""One clear sentence for what does not go together, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.selection.words import TEMPLATE, draw, learner

from iclens.errors import UserError
from iclens.lens import Prompt
from iclens.selection import read_examples, read_pool, select

KNOWN = draw(0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"k": 13}, "k is 13, but the pool has 12 demonstrations"),
        ({"k": 0}, "k is 0: it must be at least 1"),
        ({"candidates": ["dax", "wug"]}, "which is none of the candidates"),
        ({"candidates": "dax"}, "the candidates are the text 'dax'"),
        ({"dev": []}, "the development set: no example is there"),
        ({"dev": KNOWN.dev[::2]}, "all development examples have the same output"),
        ({"dev": KNOWN.dev[:2], "held_out": 0.1}, "too few to set some aside"),
        ({"dev": [*KNOWN.dev, KNOWN.dev[0]]}, "item 24 has the same input as item 0"),
        ({"dev": [*KNOWN.dev, ("x y", None)]}, "development example 24 .* has no output"),
        ({"dev": [*KNOWN.dev, KNOWN.pool[3]]}, "is demonstration 3 of the pool too"),
        ({"pool": [*KNOWN.pool, KNOWN.pool[1]]}, "the pool: item 12 has the same input as item 1"),
        ({"pool": [*KNOWN.pool[:-1], (KNOWN.pool[-1][0], None)]}, "1 of 12 demonstrations have no output"),
        ({"pool": [("a", "b", "c")]}, "is no pair of input and output"),
        ({"budget_tokens": 2}, "budget_tokens is 2, and not even the shortest demonstration"),
        ({"order": "worst"}, "the order is 'worst'"),
        ({"metric": "f1"}, "the metric is 'f1'"),
        ({"match": "fuzzy"}, "match is 'fuzzy'"),
        ({"method": "influenze"}, "Did you mean 'influence'"),
        ({"against": "randon"}, "Did you mean 'random'"),
        ({"held_out": 1.0}, "the part that is set aside is 1"),
        ({"budget": 3.0, "method": "one_at_a_time"}, "a budget of 3 passes is too small"),
        ({"template": "{input}"}, "lacks {output}"),
        ({"held_out": KNOWN.dev[:3]}, "is in dev and in held_out"),
        ({"check_with": "no/such/model"}, "no/such/model"),
    ],
)
def test_a_mistake_is_one_sentence(changed: dict[str, Any], said: str) -> None:
    options: dict[str, Any] = {"template": TEMPLATE, "candidates": KNOWN.labels, "against": None} | changed
    pool, dev = options.pop("pool", KNOWN.pool), options.pop("dev", KNOWN.dev)
    with pytest.raises(UserError, match=said) as error:
        select(learner(), pool, dev, **options)
    assert "\n" not in str(error.value)


def test_files_name_the_place(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text('{"input": "a", "output": "b"}\n{"input": "c"\n')
    with pytest.raises(UserError, match=r"pool\.jsonl: line 2, column \d+: not JSON"):
        read_examples(path)
    path.write_text('{"input": "a", "output": "b"}\n{"input": "a ", "output": "c"}\n')
    with pytest.raises(UserError, match=r"line 2 has the same input as line 1"):
        read_examples(path)
    path.write_text('{"input": "a", "label": "b"}\n')
    with pytest.raises(UserError, match='line 1: the key "label" is not known'):
        read_examples(path)
    with pytest.raises(UserError, match="there is no such file"):
        read_examples(tmp_path / "none.jsonl")
    (tmp_path / "pool.tsv").write_text("a\tb\n")
    with pytest.raises(UserError, match=r"\.jsonl, \.json or \.csv"):
        read_examples(tmp_path / "pool.tsv")


def test_all_kinds_of_files_hold_the_same_examples(tmp_path: Path) -> None:
    rows = [{"input": "a, b", "output": "x"}, {"input": "c", "output": "y", "candidates": ["y", "z"]}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "p.json").write_text(json.dumps(rows))
    (tmp_path / "p.csv").write_text('input,output,candidates\n"a, b",x,\nc,y,y|z\n')
    first, *others = (read_examples(tmp_path / f"p.{ending}") for ending in ("jsonl", "json", "csv"))
    assert all(one == first for one in others)
    assert first[1].candidates == ("y", "z")


@pytest.mark.parametrize(
    ("text", "template", "pairs"),
    [
        ("dog is dax .\n\noak is wug .\n\ncat is", "{input} is {output} .", [("dog", "dax"), ("oak", "wug")]),
        ("2+2=4\n\n3+5=8\n\n1+6=", "{input}={output}", [("2+2", "4"), ("3+5", "8")]),
        (
            "Review: The {a}.\nLabel: good\n\nReview: The b.\nLabel: bad\n\nReview: The c.\nLabel:",
            "Review: {input}\nLabel: {output}",
            [("The {a}.", "good"), ("The b.", "bad")],
        ),
    ],
)
def test_the_template_of_a_text_writes_it_again(text: str, template: str, pairs: list[tuple[str, str]]) -> None:
    pool = read_pool(Prompt.from_text(text))
    assert pool.writing.template == template
    assert [(one.input, one.output) for one in pool.demonstrations] == pairs
    query = text.split("\n\n")[-1]
    written = pool.writing.prompt(pool.demonstrations, "QUERY").text
    assert written.rsplit("\n\n", 1)[0] == text.removesuffix("\n\n" + query)


def test_a_text_that_is_not_written_alike_is_refused() -> None:
    with pytest.raises(UserError, match=r"demonstration 1 .* is not written as"):
        read_pool(Prompt.from_text("a: b\n\nc - d\n\ne:"), template="{input}: {output}")
    with pytest.raises(UserError, match="give the template"):
        read_pool(Prompt.from_text("one two\n\nthree four\n\nfive"))
