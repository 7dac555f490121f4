"""Text from a prompt shows what it holds; numbers never lose their sign or their size."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iclens.display_text import one_line, percent, plain, scientific, signed, visible

ANY = st.text(st.characters(exclude_categories=[]), max_size=40)


@given(ANY)
def test_nothing_invisible_is_left(text):
    shown = visible(text)
    left = {c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert left <= set("\n\t\u200c\u200d")
    shown.encode("utf-8")
    assert visible(shown) == shown


@given(st.text(st.characters(categories=["L", "N", "P", "S", "M"])))
def test_visible_text_stays_as_it_is(text):
    assert visible(text) == text


@given(ANY, st.none() | st.integers(4, 30))
def test_one_line_is_one_line_and_short_enough(text, most):
    line = one_line(text, most)
    assert len(line.splitlines()) <= 1
    assert most is None or len(line) <= most
    whole = one_line(text)
    assert line == whole or ("…" in line and whole.startswith(line.split("…")[0]))


def test_escapes_and_overrides_are_written_out():
    assert visible("a\x1b[31m\u202e\ud800\u2028é😀") == "a⟨U+001B⟩[31m⟨U+202E⟩⟨U+D800⟩⟨U+2028⟩é😀"
    assert one_line("a\nb\tc") == "a↵b→c"
    assert one_line("abcdefghijkl", 7) == "abcd…kl"


@given(st.floats(-1e300, 1e300))
def test_signed_numbers_read_back(value):
    text = signed(value)
    back = float(text.replace("−", "-"))
    assert back == pytest.approx(value, rel=0.06, abs=0.0005 if abs(value) >= 0.001 else 0.0)
    assert (text[0] == "−") == (value < 0)
    assert (text[0] == "+") == (value > 0)
    assert plain(value) == text.removeprefix("+")


def test_what_is_no_number_says_so():
    assert signed(None) == "–"
    assert signed(float("nan")) == percent(float("nan")) == scientific(float("nan")) == "not a number"
    assert (signed(float("inf")), signed(float("-inf")), scientific(float("inf"))) == ("+∞", "−∞", "∞")


@given(st.floats(0.0, 1.0))
def test_probabilities_are_certain_only_when_they_are(probability):
    text = percent(probability)
    assert (text == "0 %") == (probability == 0.0)
    assert (text == "100 %") == (100.0 * probability == 100.0)
    assert float(text.removeprefix("> ").removesuffix(" %").replace("−", "-")) == pytest.approx(
        100 * probability, abs=0.051, rel=0.06
    )
