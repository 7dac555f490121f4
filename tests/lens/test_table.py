"""The table: the warning first, every number, and nothing from a prompt that could command a terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console
from tests.report.sample import make, odd

from iclens.display_text import one_line, scientific, signed
from iclens.lens.explanation import Explanation
from iclens.lens.table import print_table


def printed(explanation: Explanation, width: int = 80, encoding: str = "utf-8", colour: bool = False) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="\n", write_through=True)
    print_table(explanation, Console(file=file, width=width, force_terminal=colour or None))
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_it_fits_the_terminal_and_says_every_number(width):
    explanation = make(12, 200)
    effects = tuple(
        replace(effect, rerun_margin_change=effect.path / 3, scores={"lasso": effect.path / 7})
        for effect in explanation.sources
    )
    names = ("gradient_step", "path", "knock_out", "rerun", "lasso")
    explanation = replace(explanation, sources=effects, scores=names)
    text = printed(explanation, width)
    assert max(map(len, text.splitlines())) <= width
    for effect in effects:
        row = next(line for line in text.splitlines() if re.match(rf"\s+{effect.index}  Te", line))
        for name in names:
            assert signed(effect.score(name)) in row
        assert signed(effect.knock_out.log_probability_change) in row
    for residual in explanation.residuals:
        assert scientific(residual.value) in text
    for other in explanation.others:
        assert signed(other.path) in text
    for test in explanation.faithfulness:
        assert f"{signed(test.margin_drop)} (top {test.k})" in text
    (group,) = explanation.group_knock_outs
    assert all(signed(value) in text for value in (group.margin, group.margin_change, group.log_probability_change))
    words = " ".join(text.split())
    assert explanation.margin_definition in words
    assert explanation.notes[0] in words


def test_only_scores_that_were_computed_have_a_column():
    explanation = make()
    effects = tuple(replace(effect, path=None, knock_out=None) for effect in explanation.sources)
    text = printed(replace(explanation, sources=effects, scores=("gradient_step",), agreement=(), group_knock_outs=()))
    heading, *rest = text.split("Demonstrations")[1].split("The rest of the prompt")[0].splitlines()
    assert "direct" in rest[0]
    assert not any(word in " ".join(rest) for word in ("total", "knock", "(log p)", "removed"))
    assert heading.endswith("+ supports the answer, − opposes it")


def test_demonstrations_stand_from_the_strongest_support():
    explanation = make(8, 80)
    found = re.findall(r"^ +(\d+)  Text:", printed(explanation), re.M)
    assert [int(index) for index in found] == [effect.index for effect in explanation.ranked()]


def test_a_residual_beyond_its_tolerance_is_said_first():
    explanation = make()
    assert printed(explanation).startswith("Answer")
    broken = replace(explanation, residuals=(replace(explanation.residuals[0], value=float("nan")),))
    text = printed(broken)
    assert text.startswith("Do not trust these numbers")
    assert "not a number" in text
    assert "✗ exceeded" in text


def test_markup_in_a_prompt_is_text():
    text = "[bold red]x[/] [link=a]"
    assert " ".join(printed(odd(text), 200).split()).count(text) >= 10
    printed(odd("[/]"))


@pytest.mark.parametrize("text", ["\x1b[2J\x1b]0;t\x07", "a\u202eb", "a\rb\x9b", "\ud800", "a\nb"])
def test_a_prompt_cannot_command_the_terminal(text):
    plain = printed(odd(text), 200)
    assert not re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", plain)
    assert one_line(text) in plain
    allowed = re.sub("\x1b\\[[0-9;]*m", "", printed(odd(text), 200, colour=True))
    assert "\x1b" not in allowed


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminals_without_unicode(encoding):
    text = printed(odd("שלום é 😀"), encoding=encoding)
    assert "-0." in text
    assert "\\u05e9" in text
    assert "#" in text


def test_bars_are_as_long_as_their_numbers():
    explanation = make(3, 30)
    values = [2.0, 1.0, -0.5]
    effects = tuple(replace(effect, gradient_step=v) for effect, v in zip(explanation.sources, values, strict=True))
    text = printed(replace(explanation, sources=effects, candidates=()))
    assert [len(bar) for bar in re.findall("█+", text)] == [8, 4, 2]
    # They show the first of the scores, which orders the rows too.
    text = printed(replace(explanation, sources=effects[::-1], scores=("path",), candidates=()))
    largest = max(abs(effect.path) for effect in effects)
    ordered = sorted(effects, key=lambda effect: -effect.path)
    eighths = [int(64 * abs(effect.path) / largest + 0.5) // 8 for effect in ordered]
    found = re.findall(r"^ +\d+  .*?(█*)[▏▎▍▌▋▊▉]? *$", text, re.M)
    assert [len(bar) for bar in found] == eighths
