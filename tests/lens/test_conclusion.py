"""The sentences of an explanation say what its numbers say, and nothing that they do not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iclens import Explanation, explain
from iclens.lens.facts import Agreement, Completeness, PairEffects, Residual, Taken

BLOCKS = [
    "dog is blick .",
    "saw is nef .",
    "tiger is blick .",
    "rabbit is blick .",
    "cherry is vux .",
    "france is zup .",
]
QUERY = "cat is"


@cache
def found() -> Explanation:
    prompt = "\n\n".join([*BLOCKS, QUERY])
    return explain("bundled", prompt, answers=["blick", "nef"], scores=["shares", "gradient_step"])


def with_scores(values: list[float], **changes: Any) -> Explanation:
    sources = tuple(
        replace(one, scores={"shares": value}, of_output={})
        for one, value in zip(found().sources, values, strict=False)
    )
    return replace(found(), sources=sources, agreement=(), **changes)


def said(one: Explanation) -> str:
    return " ".join(one.conclusion)


def test_it_stands_in_the_table_and_in_the_file() -> None:
    sentences = found().conclusion
    assert len(sentences) >= 3
    for sentence in sentences:
        assert sentence in " ".join(str(found()).split())
    assert found().to_dict()["conclusion"] == list(sentences)
    assert all(one.endswith(".") for one in sentences)


def test_numbers_that_are_not_exact_are_not_put_in_words() -> None:
    wrong = Residual("x", 1.0, 1e-5, "capture")
    assert replace(found(), residuals=(wrong,)).conclusion == ()


@pytest.mark.parametrize(
    ("margin", "without", "words"),
    [
        (3.0, -2.0, "they decide for this answer"),
        (-3.0, 2.0, "they decide against this answer"),
        (3.0, 2.9, "they hardly matter, the rest of the prompt decides"),
        (3.0, 1.0, "would be +1.000 instead of +3.000 nats."),
    ],
)
def test_how_much_the_demonstrations_matter(margin: float, without: float, words: str) -> None:
    one = replace(found(), margin=margin, completeness=Completeness(without, 0.0, 0.05, (0.5,)))
    (said,) = (line for line in one.conclusion if line.startswith("Without any demonstration"))
    assert words in said


@pytest.mark.parametrize(("weight", "words"), [(0.5, "at half its weight"), (1 / 512, "at 1/512 of its weight")])
def test_at_which_weight_is_said_where_nothing_ran_without_demonstrations(weight: float, words: str) -> None:
    one = replace(found(), completeness=None, influence_at=Taken(weight, 1.0))
    (said,) = (line for line in one.conclusion if line.startswith("With every demonstration"))
    assert words in said


def test_what_the_answer_rests_on_is_said_first() -> None:
    one = replace(found(), completeness=Completeness(1.0, 0.0, 0.05, (0.5,)))
    assert one.conclusion[0].startswith("The answer rests on")


@given(st.lists(st.floats(-10, 10).filter(lambda x: abs(x) > 1e-3), min_size=6, max_size=6))
def test_those_named_make_up_most_of_the_support_and_no_fewer_do(values: list[float]) -> None:
    text = said(with_scores(values, completeness=None))
    support = sum(max(0.0, one) for one in values)
    if support == 0.0:
        assert "No demonstration supports the answer" in text
        assert "oppose" in text
        return
    ranked = sorted(range(6), key=lambda i: -values[i])
    count = next(k for k in range(1, 7) if sum(values[i] for i in ranked[:k]) >= 2 / 3 * support - 1e-12)
    if count <= 3:
        names = text.split("rests on ")[1].split(":")[0]
        assert sorted(int(part.strip("#,")) for part in names.split() if part != "and") == sorted(ranked[:count])
    else:
        assert f"comes from {count}, by shares" in text
    opposed = [i for i in range(6) if values[i] <= -max(map(abs, values)) / 4]
    assert ("oppose" in text) == bool(opposed)


def test_labels_that_say_the_same_and_scores_that_disagree_are_named() -> None:
    zeros = ((0.0,) * 6,) * 6
    pairs = PairEffects(zeros, zeros, ((0, 2, 3),), ((1, 4),), 0.1, 1.0, 8)
    text = said(replace(found(), pairs=pairs))
    assert "#0, #2 and #3 say the same" in text
    assert "#1 and #4 depend on each other" in text
    blind = said(replace(found(), pairs=replace(pairs, error=1.5)))
    assert "cannot be told" in blind
    assert "say the same" not in blind
    none = replace(pairs, redundant=(), dependent=())
    assert "No two demonstrations say the same" in said(replace(found(), pairs=none))
    apart = Agreement("shares", "gradient_step", -0.2, 0.0, 2)
    assert "Shares and direct effect (gradient step) rank the demonstrations differently" in said(
        replace(found(), agreement=(apart,))
    )
    assert "differently" not in said(replace(found(), agreement=(replace(apart, spearman=0.9),)))
    assert "differently" not in said(replace(found(), agreement=(replace(apart, spearman=None),)))


def test_a_lone_demonstration_needs_no_few() -> None:
    one = explain("bundled", "dog is blick .\n\ncat is", answers=["blick", "nef"])
    assert "rests on" not in said(one)
