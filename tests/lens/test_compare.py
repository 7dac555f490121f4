"""Two explanations side by side: sources are matched, changes are B less A, and only like is compared with like."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from io import BytesIO, TextIOWrapper
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests.lens.word_learner import PAIRS, learner
from tests.report.sample import make

import iclens
from iclens import Comparison, Explanation, Prompt, UserError, explain
from iclens.lens import SourceEffect
from iclens.lens.differences import print_comparison
from iclens.lens.differences.matching import match
from iclens.lens.differences.places import unmoved
from iclens.lens.facts import ResponseEffects

SCORES = ["path", "gradient_step", "influence", "shares", "knock_out"]
ANSWERS = ("dax", "wug")


@cache
def found(order: tuple[int, ...] = (0, 1, 2, 3, 4), answer: str | None = None, seed: int = 0) -> Explanation:
    prompt = Prompt.from_examples([PAIRS[i] for i in order], "cow", "{input} is {output} .")
    model = learner() if seed == 0 else learner(3)
    return explain(model, prompt, answers=list(ANSWERS), answer=answer, scores=SCORES, precise=True)


def sources(*texts: str, kind: str = "demonstration", ids: tuple[str, ...] = ()) -> list[SourceEffect]:
    return [SourceEffect(i, text, None, 1, kind=kind, id=ids[i] if ids else str(i)) for i, text in enumerate(texts)]


def fates(first: list[SourceEffect], second: list[SourceEffect]) -> list[tuple[int | None, int | None, str]]:
    return [(one.a, one.b, one.fate) for one in match(first, second)]


def test_an_explanation_is_the_same_as_itself() -> None:
    same = iclens.compare(found(), found())
    assert same.differs == ()
    assert same.margin_change == 0.0
    assert [one.fate for one in same.sources] == ["kept"] * 5
    assert {pair.change for one in same.sources for pair in one.scores.values()} == {0.0}
    assert "Nothing differs" in same.conclusion[0]


@pytest.mark.parametrize("order", [(4, 3, 2, 1, 0), (1, 2, 3, 4, 0), (0, 2, 4), (2, 0)])
def test_sources_are_matched_by_their_text_and_their_scores_are_those_of_the_explanations(
    order: tuple[int, ...],
) -> None:
    a, b = found(answer="dax"), found(order, answer="dax")
    both = iclens.compare(a, b)
    assert {(one.a, one.b) for one in both.sources if one.b is not None} == {(i, k) for k, i in enumerate(order)}
    assert {one.a for one in both.sources if one.fate == "removed"} == set(range(5)) - set(order)
    for one in both.sources:
        for name, pair in one.scores.items():
            assert pair.a == (a.sources[one.a].score(name) if one.a is not None else 0.0)
            assert pair.b == (b.sources[one.b].score(name) if one.b is not None else 0.0)
    assert ("order" in both.differs) == (list(order) != sorted(order))


@pytest.mark.parametrize("order", [(4, 3, 2, 1, 0), (1, 3), (2, 0, 1, 3, 4)])
@pytest.mark.parametrize("score", ["path", "shares"])
def test_changes_of_sources_and_rest_sum_to_that_of_the_logit_difference(order: tuple[int, ...], score: str) -> None:
    a, b = found(answer="dax"), found(order, answer="dax")
    both = iclens.compare(a, b)
    total, rest = both.total(score), both.rest[score]
    assert total is not None
    # Shares are integrated at a few weights: each explanation says by how much they miss their sum.
    most = 1e-9 if score == "path" else sum(missed(one) for one in (a, b)) + 1e-12
    assert abs(total.change + rest.change - both.margin_change) <= most
    assert sum(one.scores[score].change for one in both.sources) == pytest.approx(total.change, abs=1e-12)


def missed(one: Explanation) -> float:
    """By how many nats the shares of an explanation miss their sum, from its own completeness."""
    assert one.completeness is not None
    without = one.completeness.without
    largest = max(abs(effect.scores["shares"]) for effect in one.sources)
    return one.completeness.gap * max(abs(one.margin - without), largest)


def test_the_other_way_round_every_change_has_the_other_sign() -> None:
    a, b = found(answer="dax"), found((3, 0, 4), answer="dax")
    there, back = iclens.compare(a, b), iclens.compare(b, a)
    assert back.margin_change == -there.margin_change
    changes = {(one.a, one.b): {name: pair.change for name, pair in one.scores.items()} for one in there.sources}
    for one in back.sources:
        assert changes[one.b, one.a] == {name: -pair.change for name, pair in one.scores.items()}


def test_the_same_prompt_explained_for_the_other_of_two_candidates_differs_in_nothing() -> None:
    """A logit difference of two candidates is minus that of the other one, and every score is linear in it."""
    both = iclens.compare(found(answer="dax"), found(answer="wug"))
    assert both.flipped
    assert both.margin_b == pytest.approx(both.margin_a, abs=1e-12)
    for one in both.sources:
        for name, pair in one.scores.items():
            assert pair.b == pytest.approx(pair.a, abs=1e-9), name
    assert any("the other sign" in note for note in both.notes)


def test_models_are_compared_too() -> None:
    both = iclens.compare(found(answer="dax"), found(answer="dax", seed=1))
    assert [one.fate for one in both.sources] == ["kept"] * 5
    assert both.margin_change == found(answer="dax", seed=1).margin - found(answer="dax").margin
    other = replace(found(answer="dax", seed=1), model=replace(found().model, name="another"))
    both = iclens.compare(found(answer="dax"), other)
    assert both.differs == ("model",)
    assert "the model (untrained, another)" in both.conclusion[0]
    assert any("same scale" in note for note in both.notes)


def test_files_give_the_same_comparison(tmp_path) -> None:
    for name, one in (("a", found(answer="dax")), ("b", found((3, 0, 4), answer="dax"))):
        one.save(tmp_path / f"{name}.json")
    loaded = iclens.compare(*(Explanation.load(tmp_path / f"{name}.json") for name in "ab"))
    assert loaded.to_dict() == iclens.compare(found(answer="dax"), found((3, 0, 4), answer="dax")).to_dict()


def test_answers_are_matched_by_their_text() -> None:
    a, b = found(), found((3, 0, 4))
    both = iclens.compare(a, b)
    for one in both.answers:
        for value, side in ((one.a, a), (one.b, b)):
            assert value == next(c.probability for c in side.candidates if c.text == one.text)
    likeliest = [max(side.candidates, key=lambda c: c.probability).text for side in (a, b)]
    sentence = next(one for one in both.conclusion if one.startswith("The answer "))
    assert ("stays" in sentence) == (likeliest[0] == likeliest[1])


# Matching


@given(
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8),
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8),
)
def test_every_source_of_both_prompts_is_there_once(first: list[str], second: list[str]) -> None:
    found = match(sources(*first), sources(*second))
    assert sorted(one.a for one in found if one.a is not None) == list(range(len(first)))
    assert [one.b for one in found if one.b is not None] == list(range(len(second)))
    pairs = [(one.a, one.b) for one in found if one.a is not None and one.b is not None]
    assert all(first[i] == second[j] for i, j in pairs)
    # As many as there can be: of every text as often as it is in both.
    assert len(pairs) == sum(min(first.count(text), second.count(text)) for text in set(first))


def test_as_few_as_possible_count_as_moved() -> None:
    texts = "abcde"
    for order in permutations(range(5)):
        found = match(sources(*texts), sources(*(texts[i] for i in order)))
        kept = unmoved(range(5), order)
        assert {one.a for one in found if one.fate == "kept"} == kept
        assert sum(one.moved for one in found) == 5 - len(kept)


def test_an_edit_shares_half_of_its_words_or_the_name_of_a_document() -> None:
    first = sources("Review: I want my two hours back.\nSentiment: negative", "Review: Lovely.\nSentiment: positive")
    second = sources("Review: I want my two hours back.\nSentiment: positive", "Review: Dreadful.\nSentiment: negative")
    # Words that all of them have do not count.
    assert fates(first, second) == [(0, 0, "edited"), (None, 1, "added"), (1, None, "removed")]
    first = sources("It opened in 1889.", "x", kind="document", ids=("tower", "b"))
    second = sources("x", "The capital of Peru", kind="document", ids=("c", "tower"))
    found = match(first, second)
    assert [(one.a, one.b) for one in found] == [(1, 0), (0, 1)]
    assert found[1].fate == "edited"
    assert [one.moved for one in found].count(True) == 1


def test_white_space_is_no_difference() -> None:
    assert fates(sources("a b", "c"), sources("a  b\n", "c ")) == [(0, 0, "kept"), (1, 1, "kept")]


# What cannot be compared


def test_one_sentence_says_why_not() -> None:
    a = found()
    said = ResponseEffects("dax .", ("dax", "."), (-0.1, -0.2), "log_probability", 0, 2)
    responding = replace(a, response=said, answer="dax .", candidates=())
    with pytest.raises(UserError, match="second explanation is of a response and the first of an answer"):
        iclens.compare(a, responding)
    others = tuple(replace(one, text=f"quite other words {i}") for i, one in enumerate(a.sources))
    with pytest.raises(UserError, match="no source is in both explanations"):
        iclens.compare(a, replace(a, sources=others))


@pytest.mark.wrong_types
def test_a_file_is_no_explanation() -> None:
    with pytest.raises(UserError, match="the second argument is no explanation but str"):
        iclens.compare(found(), "b.json")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores": ("lasso",)}, "No score was computed for both"),
        ({"candidates": (), "margin_definition": "x"}, "give both the same --answers"),
    ],
)
def test_numbers_of_different_things_are_not_subtracted(changes: dict[str, object], words: str) -> None:
    both = iclens.compare(found(), replace(found(), **changes))  # type: ignore[arg-type]
    assert both.incomparable is not None
    assert words in both.incomparable
    assert words in " ".join(both.conclusion)
    assert both.margin_change is None
    assert both.scores == ()
    assert words in " ".join(str(both).split())
    with pytest.raises(UserError, match="cannot be compared"):
        both.ranked("path")


def test_of_three_candidates_scores_of_different_answers_are_not_compared() -> None:
    a = make()
    turned = replace(
        a, answer="storm", candidates=tuple(replace(one, chosen=one.text == "storm") for one in a.candidates)
    )
    both = iclens.compare(a, turned)
    assert both.incomparable is not None
    assert both.incomparable.startswith("A explains 'calm' and B 'storm', each against the others")
    assert [one.a for one in both.answers] == [one.probability for one in a.candidates]


def test_other_edges_leave_out_what_depends_on_them() -> None:
    both = iclens.compare(found(), replace(found(), edges="query"))
    assert both.scores == ("path", "gradient_step")
    assert any("--edges" in note for note in both.notes)


def test_responses_are_compared_where_they_are_the_same() -> None:
    def responding(text: str, **changes: object) -> Explanation:
        said = ResponseEffects(text, (text,), (-0.1,), "log_probability", 0, 1)
        return replace(found(), response=replace(said, **changes), answer=text, candidates=())  # type: ignore[arg-type]

    assert iclens.compare(responding("x y"), responding("x y")).incomparable is None
    for other in (responding("z"), responding("x y", foil="q"), responding("x y", measure="logit")):
        both = iclens.compare(responding("x y"), other)
        assert both.incomparable is not None
        assert both.incomparable.endswith(".")


def test_numbers_that_are_not_exact_are_not_put_in_words() -> None:
    wrong = replace(found(), residuals=(replace(found().residuals[0], value=1.0),))
    both = iclens.compare(found(), wrong)
    assert not both.exact
    assert both.conclusion == ("Do not trust these numbers: checks of B against the model do not hold.",)


# Views


def test_table_rows_and_data_frame_hold_the_same_numbers() -> None:
    both = iclens.compare(found(answer="dax"), found((3, 0, 4), answer="dax"))
    text = " ".join(str(both).split())
    for sentence in both.conclusion:
        assert sentence in text
    frame = both.to_pandas()
    assert list(frame["path_change"]) == [one.scores["path"].change for one in both.sources]
    assert list(frame["fate"]) == [one.fate for one in both.sources]
    ranked = [abs(one.scores["path"].change) for one in both.ranked()]
    assert ranked == sorted(ranked, reverse=True)


def test_a_terminal_without_unicode_gets_a_table_too() -> None:
    both = iclens.compare(found(), found((3, 0, 4)))
    stream = TextIOWrapper(BytesIO(), encoding="ascii")
    print_comparison(both, Console(file=stream, width=100, force_terminal=False))
    stream.flush()
    text = stream.buffer.getvalue().decode("ascii")
    assert "->" in text
    assert "In words" in text


def test_it_is_saved_by_its_ending(tmp_path) -> None:
    both: Comparison = iclens.compare(found(), found((3, 0, 4)))
    both.save(tmp_path / "c.json")
    both.save(tmp_path / "c.html")
    assert (tmp_path / "c.json").read_text(encoding="utf-8") == both.to_json()
    assert (tmp_path / "c.html").read_text(encoding="utf-8") == both.to_html()
    with pytest.raises(UserError, match=r"Known: \.html, \.json"):
        both.save(tmp_path / "c.txt")


def test_nothing_of_torch_is_left_in_it() -> None:
    both = iclens.compare(found(), found((3, 0, 4)))
    assert not any(isinstance(value, torch.Tensor) for row in both.to_rows() for value in row.values())
