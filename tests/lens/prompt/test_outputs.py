"""Where the output of a demonstration stands, and which tokens show it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import iclens
from iclens.lens.prompt import Prompt
from iclens.lens.prompt.outputs import outputs_of


def shown(prompt: Prompt) -> list[str | None]:
    return [None if span is None else span.of(prompt.text) for span in outputs_of(prompt)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2+3=5\n\n4+1=5\n\n1+1=", ["5", "5"]),
        ("dog is blick .\n\nsaw is nef .\n\ncat is", ["blick .", "nef ."]),
        ("Review: a is b\nSentiment: pos\n\nReview: x\nSentiment: neg\n\nReview: q\nSentiment:", ["pos", "neg"]),
        ("Q: hot\nA: cold\n\nQ: A: what\nA: b\n\nQ: c\nA:", ["cold", "b"]),
        ("a note\n\nQ: hot\nA: cold\n\nQ: d\nA: b\n\nQ: c\nA:", ["cold", "b"]),
        ("one\n\ntwo\n\nthree", [None, None]),
    ],
)
def test_in_plain_text_it_follows_the_words_before_the_answer(text: str, expected: list[str | None]) -> None:
    assert shown(Prompt.from_text(text)) == expected


_WORD = st.text("abcxyz", min_size=1, max_size=6)


@given(st.lists(st.tuples(_WORD, _WORD), min_size=1, max_size=5), _WORD)
def test_of_pairs_it_is_the_output(pairs: list[tuple[str, str]], query: str) -> None:
    """With what closes the demonstration, where a causal model has read it."""
    for template in ("Input: {input}\nOutput: {output}", "{input} -> {output} ;"):
        prompt = Prompt.from_examples(pairs, query, template=template)
        closing = template.split("{output}")[1]
        assert shown(prompt) == [output + closing for _, output in pairs]
        spans = outputs_of(prompt)
        for span, whole in zip(spans, prompt.demonstrations, strict=True):
            assert span is not None
            assert whole.start < span.start < span.end <= whole.end


def test_an_output_without_visible_characters_has_none() -> None:
    assert shown(Prompt.from_examples([("a", "b"), ("c", " ")], "d")) == ["b", None]


def test_parts_of_a_score_are_those_of_the_tokens() -> None:
    prompt = "dog is blick .\n\nsaw is nef .\n\ncat is"
    every = ["influence", "shares", "gradient_step", "path"]
    found = iclens.explain("bundled", prompt, answers=["blick", "nef"], scores=every)
    lens = found.lens
    marked = lens.tokenized.in_output.tolist()
    assert [text.strip() for text, own in zip(lens.tokenized.texts, marked, strict=True) if own] == [
        "blick",
        ".",
        "nef",
        ".",
    ]
    for effect in found.sources:
        own = [token for token, mine in zip(found.tokens, marked, strict=False) if mine and token.part == effect.index]
        for name in every:
            values = [token.scores[name] if name in token.scores else getattr(token, name) for token in own]
            assert effect.of_output[name] == pytest.approx(sum(values), rel=1e-6, abs=1e-9)


def test_a_text_that_does_not_show_outputs_has_no_parts() -> None:
    found = iclens.explain("bundled", "dog blick\n\nsaw nef\n\ncat is", answers=["blick", "nef"])
    assert [effect.of_output for effect in found.sources] == [{}, {}]
    assert not any("outputs" in sentence for sentence in found.conclusion)
