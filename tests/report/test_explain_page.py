"""The page: it loads nothing, runs nothing, says everything, and stays small."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.report.sample import make, odd

from iclens.report.display_text import one_line, signed
from iclens.report.explain_page import render

VOID = {"meta", "input", "br"}
LOADING = {"src", "href", "srcset", "data", "action", "background", "poster", "formaction", "xlink:href", "style"}


class Page(html.parser.HTMLParser):
    """Elements with their attributes, text by element, and whether tags nest."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.prompt = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append("prompt" if dict(attrs).get("class") == "prompt" else tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() in (tag, "prompt"), tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if "prompt" in self.open and self.open[-1] not in ("b", "i"):
            self.prompt += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def test_it_loads_nothing_and_runs_nothing():
    source = render(make())
    page = Page(source)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "video", "audio", "use"}
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in LOADING or (name == "href" and value == "#how")
    assert "url(" not in source
    assert "@import" not in source
    assert "http:" not in source
    assert "https:" not in source


def test_its_policy_allows_its_own_style_alone():
    source = render(make())
    (policy,) = (a["content"] for t, a in Page(source).elements if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*)</style>", source, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_512_tokens_and_16_demonstrations_and_144_heads_stay_below_300_kb():
    explanation = make(16, 512, 12, 12)
    assert len(explanation.tokens) == 512
    long = replace(explanation, tokens=tuple(replace(t, text="\u202e" * 4) for t in explanation.tokens))
    assert len(render(explanation).encode()) < 300_000
    assert len(render(long).encode()) < 300_000


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; </style><style>*{display:none}</style>",
    "{{ 7*7 }}{% raw %}",
    "</title><b>&amp;&#60;",
    "]]><!-- -->",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_every_string_is_escaped(text):
    page, plain = Page(render(odd(text))), Page(render(odd("x")))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(a) for _, a in page.elements] == [sorted(a) for _, a in plain.elements]
    assert page.words.count(text) >= 10


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_categories=[]), max_size=12))
def test_any_string_leaves_the_page_whole(text):
    source = render(odd(text))
    source.encode("utf-8")
    assert not set(re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]", source))
    Page(source)


def test_the_prompt_stands_there_whole():
    explanation = make(4, 60)
    expected = explanation.tokens[0].text + explanation.prompt
    assert Page(render(explanation)).prompt.strip() == expected


def test_invisible_characters_of_the_prompt_are_written_out():
    base = make(2, 20)
    tokens = [replace(base.tokens[1], text="\n\n a\u202eb\n"), replace(base.tokens[2], text=""), *base.tokens[3:]]
    page = Page(render(replace(base, tokens=tuple(tokens))))
    assert page.prompt.lstrip("\n").startswith(" a⟨U+202E⟩b\n▫")


def test_every_number_is_there():
    explanation = make(5, 60)
    effects = tuple(replace(e, rerun_margin_change=0.5 + e.index) for e in explanation.demonstrations)
    explanation = replace(explanation, demonstrations=effects)
    page = Page(render(explanation))
    titles = " ".join(a["title"] for _, a in page.elements if "title" in a)
    for effect in effects:
        for value in (
            effect.gradient_step,
            effect.path,
            effect.knock_out.margin_change,
            effect.knock_out.log_probability_change,
            effect.rerun_margin_change,
        ):
            assert signed(value) in page.text
        assert one_line(effect.text, 160) in page.text
    for token in explanation.tokens:
        assert f"gradient step {signed(token.gradient_step)}, path {signed(token.path)}" in titles
    for row in explanation.total_by_layer_and_head():
        for value in row:
            assert signed(value) in page.text
    for other in explanation.others:
        assert signed(other.path) in page.text
    for text in (explanation.command, explanation.margin_definition, *explanation.notes):
        assert text in page.text
    for group in explanation.group_knock_outs:
        assert signed(group.margin_change) in page.text


def test_demonstrations_stand_from_the_strongest_support():
    explanation = make(8, 120)
    found = re.findall(r'<tr><th scope="row">#(\d+)</th>', render(explanation))
    assert [int(index) for index in found] == [effect.index for effect in explanation.ranked()]


def test_a_residual_beyond_its_tolerance_is_said_first():
    explanation = make()
    assert "Do not trust" not in render(explanation)
    for value in (1.0, float("nan")):
        broken = replace(explanation, residuals=(replace(explanation.residuals[0], value=value),))
        text = Page(render(broken)).text
        body = text[text.index("iclens explain") + len("iclens explain") :]
        assert body.strip().startswith("Do not trust these numbers")
        assert "✗ exceeded" in text
        assert "checks hold" not in text


def test_colours_follow_sign_and_size():
    base = make(2, 20)
    values = [1.0, 0.5, -1.0, 0.0]
    tokens = tuple(replace(base.tokens[1 + i], gradient_step=v, path=-v) for i, v in enumerate(values))
    page = Page(render(replace(base, tokens=tokens)))
    classes = [a.get("class") for t, a in page.elements if t == "span" and "title" in a]
    assert classes == ["gp7 wn7", "gp4 wn4", "gn7 wp7", None]


def test_optional_parts_are_left_out():
    base = make(1, 12, 1, 1)
    bare = replace(
        base, candidates=(), agreement=(), group_knock_outs=(), faithfulness=(), notes=(), command="", others=()
    )
    text = Page(render(bare)).text
    for title in ("Candidate answers", "agree", "Groups", "foretell", "Notes"):
        assert title not in text
    render(replace(bare, demonstrations=(), tokens=(), next_tokens=(), residuals=()))


def test_large_models_keep_the_page_small():
    source = render(make(16, 200, 48, 64))
    assert len(source.encode()) < 300_000
    assert "One map for each demonstration" not in source
