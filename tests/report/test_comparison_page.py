"""The page of a comparison: its numbers are the comparison's, every source stands where it belongs, texts are inert."""

from __future__ import annotations

from dataclasses import replace
from html import unescape

import pytest
from tests.fuzz.test_texts import HOSTILE
from tests.report.elements import Element, read
from tests.report.sample import make, odd

from iclens import Comparison, compare
from iclens.display_text import percent, signed

A = make()
MIXED = [A.sources[k] for k in (5, 0, 1, 3, 4)]
B = replace(
    A,
    sources=tuple(
        replace(one, index=i, id=str(i), gradient_step=-(one.gradient_step or 0.0) / 2) for i, one in enumerate(MIXED)
    ),
    margin=1.25,
    id="<b>shuffled</b>",
)


def found() -> Comparison:
    return compare(A, B)


def page(both: Comparison | None = None) -> Element:
    return read((both or found()).to_html())


def test_the_words_stand_on_top_and_the_answers_in_a_table() -> None:
    both = found()
    sentences = [" ".join(one.split()) for one in both.conclusion]
    assert [one.words for one in page().one("ul", "sentences").all("li")] == sentences
    rows = list(page().one("table", "chances").all("tr"))[1:]
    for row, one in zip(rows, both.answers, strict=True):
        assert one.a is not None
        assert one.b is not None
        assert one.text in row.words
        assert percent(one.a) in row.words
        assert percent(one.b) in row.words


def test_every_number_of_every_table_is_that_of_the_comparison() -> None:
    both = found()
    tables = [one for one in page().all("table") if "changes" in one.classes]
    assert len(tables) == len(both.scores)
    for table, name in zip(tables, both.scores, strict=True):
        rows = [row for row in table.all("tr") if "sum" not in row.classes][1:]
        for row, one in zip(rows, both.ranked(name), strict=True):
            pair = one.scores[name]
            numbers = [span.words for span in row.all("span", "number")]
            assert numbers == [signed(pair.a), signed(pair.b), signed(pair.change)]
            assert one.mark in row.words


def test_both_prompts_stand_side_by_side_in_their_orders() -> None:
    sides = list(page().all("div", "blocks"))
    for side, explanation in zip(sides, (A, B), strict=True):
        texts = [block.words for block in side.all("div", "block")]
        assert len(texts) == len(explanation.sources)
        for text, effect in zip(texts, explanation.sources, strict=True):
            assert " ".join(effect.text.split()) in text
    assert len(list(sides[0].all("del"))) == 1


def test_what_cannot_be_compared_is_said_in_place_of_numbers() -> None:
    both = compare(A, replace(B, scores=("lasso",)))
    assert both.incomparable is not None
    assert not [one for one in page(both).all("table") if "changes" in one.classes]
    assert both.incomparable in page(both).words


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_stay_texts(text: str) -> None:
    expected = {one.tag for one in page(compare(odd("word"), odd("word"))).all()} | {"ins", "del"}
    both = compare(odd(text), odd(text)) if text.split() else None
    if both is not None:
        assert {one.tag for one in page(both).all()} <= expected


def test_in_a_notebook_it_is_a_small_table() -> None:
    cell = unescape(found()._repr_html_())
    assert all(sentence in cell for sentence in found().conclusion)
    assert "<script" not in compare(odd("<script>"), odd("<script>"))._repr_html_()
