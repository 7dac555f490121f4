"""The page of one explanation: it loads nothing, holds every number of that explanation, and survives any text."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import iclens
from iclens.explorer import page
from iclens.explorer.explained import explained_page
from iclens.lens.prompt.prompt import Prompt

TEXT = "cat is vux .\n\napple is nef .\n\ndog is vux .\n\nhorse is"
ANSWERS = ("vux", "nef")
OPTIONS = {"knock_out": ((0, 2),), "rerun_text": True, "faithfulness": True, "seed": 3}


@pytest.fixture(scope="module")
def explanation(model):
    return iclens.explain(model, prompt=TEXT, answers=ANSWERS, **OPTIONS, n_next=7, command="the true command")


@pytest.fixture(scope="module")
def source(model, explanation):
    return explained_page(model, Prompt.from_text(TEXT), explanation, answers=ANSWERS, **OPTIONS, n_next=7)


def data_of(source):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', source, re.S)[1])


class Elements(html.parser.HTMLParser):
    def __init__(self, source):
        super().__init__()
        self.found = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_it_loads_nothing(source):
    elements = Elements(source).found
    tags = {tag for tag, _ in elements}
    assert not tags & {"img", "iframe", "object", "embed", "base", "form", "video", "audio"}
    for tag, attributes in elements:
        assert not any(name.startswith("on") for name in attributes), tag
        assert not {"src", "srcset", "data", "action", "style"} & set(attributes), tag
        assert attributes.get("href", "#").startswith("#") or attributes["href"] == "data:,"
    assert "@import" not in source
    assert not re.search(r"url\((?!#)", source)
    assert set(re.findall(r"https?://[^\s\"'`)]+", source)) <= {"http://www.w3.org/2000/svg"}


def test_its_policy_allows_its_own_style_and_script_alone(source):
    def digest(pattern):
        text = re.search(pattern, source, re.S)[1]
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    (policy,) = (a["content"] for t, a in Elements(source).found if a.get("http-equiv") == "Content-Security-Policy")
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == parts["base-uri"] == parts["form-action"] == "'none'"
    assert parts["style-src"] == digest(r"<style>(.*?)</style>")
    assert parts["script-src"] == digest(r'<script type="module">(.*?)</script>')


def test_every_number_of_the_explanation_is_in_it(source, explanation):
    data = data_of(source)
    whole = page.rounded(json.loads(json.dumps(explanation.to_dict())))
    shown = data["explanation"]
    for name in ("others", "residuals", "agreement", "group_knock_outs", "faithfulness", "notes", "cost", "model"):
        assert shown[name] == whole[name], name
    for one, other in zip(shown["demonstrations"], whole["demonstrations"], strict=True):
        assert one == {key: value for key, value in other.items() if key != "by_layer_and_head"}
        assert other["rerun_margin_change"] is not None
    assert [token["path"] for token in shown["tokens"]] == [token["path"] for token in whole["tokens"]]
    seen = data["glance"]
    for name in ("candidates", "next_tokens", "answer", "margin", "margin_definition", "command"):
        assert seen[name] == whole[name], name
    assert len(seen["next_tokens"]) == 7
    steps = [token["gradient_step"] for token in whole["tokens"]]
    assert [token["gradient_step"] for token in seen["tokens"]] == steps
    maps = [one["by_layer_and_head"] for one in whole["demonstrations"]]
    assert [one["by_layer_and_head"] for one in seen["demonstrations"]] == maps


def test_its_python_gives_the_same_explanation(source, explanation, model, monkeypatch):
    written = data_of(source)["glance"]["python"]
    scope = {}
    exec(written[: written.index("for effect")], scope)
    again = json.loads(json.dumps(scope["explanation"].to_dict()))
    for one, other in zip(again["demonstrations"], explanation.to_dict()["demonstrations"], strict=True):
        assert one["gradient_step"] == pytest.approx(other["gradient_step"], abs=1e-5)
        assert one["rerun_margin_change"] == pytest.approx(other["rerun_margin_change"], abs=1e-4)
    assert [group["demonstrations"] for group in again["group_knock_outs"]] == [[0, 2]]


HOSTILE = ["<script>alert(1)</script>", "</script><!--", '"><img src=x onerror=alert(1)>', "{{7*7}} ]]> &amp; \u2028"]


@settings(max_examples=30, deadline=None)
@given(st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=12)))
def test_any_text_leaves_the_page_whole(text):
    written = page.saved({"mode": "saved", "text": text})
    assert data_of(written)["text"] == text
    assert [tag for tag, _ in Elements(written).found] == [tag for tag, _ in Elements(page.saved({"text": ""})).found]


def test_numbers_that_are_not_finite_are_written_as_none(model):
    prompt = Prompt.from_text(TEXT)
    weight = model.model.transformer.ln_f.weight
    before = weight.detach().clone()
    try:
        weight.data.fill_(torch.nan)
        explanation = iclens.explain(model, prompt=prompt, answers=ANSWERS)
        data = data_of(explained_page(model, prompt, explanation, answers=ANSWERS))
    finally:
        weight.data.copy_(before)
    assert data["explanation"]["exact"] is False
    assert data["glance"]["margin"] is None
    assert any(one["value"] is None for one in data["explanation"]["residuals"])
