"""The gallery's pages: whole, escaped, closed to scripts, and honest about what was not tested."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from iclens.report.gallery import Entry, render_entry, render_index

VOID = {"meta", "img", "source", "br", "link", "input"}


def verdict(outcome, **changes):
    base = {
        "claim": "The claim.",
        "source": "a paper, Theorem 1",
        "trust": "stated",
        "outcome": outcome,
        "condition": "",
        "numbers": "0.5 [0.4, 0.6]",
        "test": "at most 0.7",
        "untested": "",
    }
    return base | changes


def setting(name, value, origin, note):
    return {"name": name, "value": value, "origin": origin, "note": note}


ENTRY = Entry(
    id="a-recipe",
    title="A title",
    reference="a paper, Fig. 1",
    description="First paragraph.\n\nSecond paragraph.",
    preset="quick",
    verdicts=(
        verdict("holds"),
        verdict("holds under", condition="tokens are normalised"),
        verdict("does not hold", trust="derived"),
        verdict("cannot be tested here", numbers="", test="", untested="there is no GPU", trust="asked"),
    ),
    settings=(
        setting("n_steps", 10000, "stated", "section 5"),
        setting("rates", (0.5, 1e-05), "chosen", "a grid"),
        setting("normalised", True, "chosen", ""),
    ),
    command="iclens reproduce a-recipe --preset quick --out out",
    seconds=12.3,
    finished="2026-01-01T00:00:00+00:00",
    machine={"CPU": "a processor", "cores": "2"},
    n_rows=12,
    picture=True,
)


class Tree(HTMLParser):
    """Checks that tags close in order, and collects attributes and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.attributes, self.text = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


PAGES = {"entry": render_entry(ENTRY), "index": render_index([ENTRY, replace(ENTRY, id="another")], "0.1.0")}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_page_is_closed_to_everything_but_its_own_style_and_pictures(page):
    tree = Tree(page)
    (policy,) = (a["content"] for tag, a in tree.attributes if a.get("http-equiv") == "Content-Security-Policy")
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    assert not any(tag == "script" or any(name.startswith("on") for name in a) for tag, a in tree.attributes)
    assert not any("style" in a for _, a in tree.attributes)
    for tag, attributes in tree.attributes:
        for name in ("src", "href", "srcset"):
            assert not re.match(r"(?i)[a-z]+:|//", attributes.get(name) or ""), (tag, attributes)


def test_entry_shows_claims_numbers_settings_and_how_it_was_made():
    words = Tree(PAGES["entry"]).words
    for shown in (
        "✓ holds The claim. a paper, Theorem 1 · stated by the paper Measured 0.5 [0.4, 0.6] Holds if at most 0.7",
        "✓ holds under: tokens are normalised",
        "✗ does not hold",
        "derived by us",
        "our question",
        "– cannot be tested here",
        "Why not there is no GPU",
        "First paragraph. Second paragraph.",
        "n_steps 10,000 the paper section 5",
        "rates 0.5, 1e-05 our choice a grid",
        "normalised yes our choice",
        "iclens reproduce a-recipe --preset quick --out out",
        "12 s of computing, finished 2026-01-01T00:00:00+00:00. CPU: a processor; cores: 2.",
        "table.csv (12 rows)",
    ):
        assert shown in words, shown


def test_pictures_change_with_the_reader_s_mode():
    tree = Tree(PAGES["entry"])
    assert ("source", {"srcset": "figure-dark.svg", "media": "(prefers-color-scheme: dark)"}) in tree.attributes
    assert ("img", {"src": "figure.svg", "alt": "A title"}) in tree.attributes
    index = Tree(PAGES["index"])
    assert [a["src"] for tag, a in index.attributes if tag == "img"] == ["a-recipe/figure.svg", "another/figure.svg"]
    assert [a["href"] for tag, a in index.attributes if tag == "a"] == ["a-recipe/index.html", "another/index.html"]


def test_index_counts_outcomes():
    words = Tree(PAGES["index"]).words
    assert "What 2 recipes measured" in words
    assert (
        "Stated by a paper ✓ 2 hold ✓ 2 hold under a condition Derived by us from a paper ✗ 2 do not hold "
        "Our questions – 2 cannot be tested here"
    ) in words
    assert "✓ 1 holds ✓ 1 holds under a condition ✗ 1 does not hold – 1 cannot be tested here" in words


def test_text_is_escaped_and_its_invisible_characters_shown():
    odd = '<script>alert(1)</script> \u202e "quoted" & \x07'
    entry = replace(
        ENTRY,
        title=odd,
        reference=odd,
        description=odd,
        command=odd,
        machine={odd: odd},
        verdicts=[verdict("holds under", claim=odd, source=odd, numbers=odd, test=odd, condition=odd)],
        settings=[setting(odd, odd, "chosen", odd)],
    )
    for page in (render_entry(entry), render_index([entry], odd)):
        assert "<script" not in page
        assert "\u202e" not in page
        assert "\x07" not in page
        assert "⟨U+202E⟩" in page
        assert any("<script>alert(1)</script>" in a.get("alt", "") for _, a in Tree(page).attributes)


def test_what_was_not_run_has_no_picture():
    entry = replace(ENTRY, picture=False, n_rows=0, verdicts=[verdict("cannot be tested here", untested="no GPU")])
    for page in (render_entry(entry), render_index([entry], "0.1.0")):
        assert "figure.svg" not in page
        assert "figure.png" not in page
        assert "<img" not in page
    assert "table.csv" not in render_entry(entry)
    assert "not run here" in render_index([entry], "0.1.0")


def test_an_empty_gallery_is_a_page():
    assert "What 0 recipes measured" in Tree(render_index([], "0.1.0")).words
