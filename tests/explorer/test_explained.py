"""The page of one explanation: it loads nothing, holds every number of that explanation, and survives any text."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import html.parser
import json
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import iclens
from iclens.explorer import page
from iclens.explorer.explained import explained_page

TEXT = "cat is vux .\n\napple is nef .\n\ndog is vux .\n\nhorse is"
ANSWERS = ("vux", "nef")
SCORES = ("gradient_step", "path", "knock_out", "influence", "shares")
OPTIONS = {"scores": SCORES, "knock_out": ((0, 2),), "rerun_text": True, "faithfulness": True, "seed": 3}


@pytest.fixture(scope="module")
def explanation(model):
    return iclens.explain(model, TEXT, answers=ANSWERS, **OPTIONS, n_next=7, command="the true command")


@pytest.fixture(scope="module")
def source(explanation):
    return explained_page(explanation)


def data_of(source):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', source, re.S)[1])


def plain(explanation):
    """An explanation as a page holds it."""
    return page.rounded(json.loads(json.dumps(explanation.to_dict())))


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
    shown = data["explanation"]
    assert shown == plain(explanation)
    assert shown["command"] == "the true command"
    assert len(shown["next_tokens"]) == 7
    assert all(one["rerun_margin_change"] is not None and one["by_layer_and_head"] for one in shown["sources"])
    totals = torch.tensor([one["by_layer_and_head"] for one in shown["sources"]]).sum(0)
    torch.testing.assert_close(torch.tensor(data["glance"]["by_layer_and_head"]), totals, rtol=1e-4, atol=1e-5)
    for name in ("influence", "shares"):
        totals = torch.tensor([one["maps"][name] for one in shown["sources"]]).sum(0)
        size = float(totals.abs().max())
        torch.testing.assert_close(torch.tensor(data["glance"]["maps"][name]), totals, rtol=1e-4, atol=1e-4 * size)
    assert shown["conclusion"] == list(explanation.conclusion)


def test_a_page_keeps_as_many_maps_of_single_demonstrations_as_it_has_room_for(explanation):
    def with_maps(layers, *scores):
        rows = ((0.125,) * 20,) * layers
        sources = tuple(
            dataclasses.replace(
                one,
                by_layer_and_head=rows if "gradient_step" in scores else (),
                maps={name: rows for name in scores if name != "gradient_step"},
            )
            for one in explanation.sources
        )
        found = dataclasses.replace(explanation, scores=scores, sources=sources, lens=None)
        return data_of(explained_page(found))

    def held(data):
        sources = data["explanation"]["sources"]
        own = [{*one["maps"], *(["gradient_step"] if one.get("by_layer_and_head") else [])} for one in sources]
        assert all(one == own[0] for one in own)
        return own[0]

    # Three demonstrations through 20 heads: 60 numbers a layer.
    assert held(with_maps(40, "influence", "gradient_step", "shares")) == {"influence", "gradient_step", "shares"}
    for layers in (50, 130):
        data = with_maps(layers, "influence", "shares", "gradient_step")
        assert held(data) == ({"influence", "shares"} if layers == 50 else {"influence"})
        assert len(data["glance"]["maps"]["shares"]) == len(data["glance"]["by_layer_and_head"]) == layers
    assert held(with_maps(140, "influence", "gradient_step")) == set()


def test_its_python_gives_the_same_explanation(source, explanation):
    scope = {}
    exec(data_of(source)["glance"]["python"].removesuffix("print(explanation)\n"), scope)
    again = scope["explanation"]
    for one, other in zip(again.sources, explanation.sources, strict=True):
        assert one.gradient_step == pytest.approx(other.gradient_step, abs=1e-5)
        assert one.rerun_margin_change == pytest.approx(other.rerun_margin_change, abs=1e-4)
    assert [group.demonstrations for group in again.group_knock_outs] == [(0, 2)]
    assert again.seed == explanation.seed == 3


@pytest.mark.parametrize("scores", [("path",), ("knock_out", "gradient_step"), ("lasso", "rerun"), ("influence",)])
def test_a_page_holds_the_scores_that_were_asked_for_and_no_others(model, scores):
    found = iclens.explain(model, TEXT, answers=ANSWERS, scores=scores, command="the true command")
    data = data_of(explained_page(found))
    assert data["explanation"] == plain(found)
    assert tuple(data["explanation"]["scores"]) == scores
    assert ("failed" in data["heads"]) == ({"gradient_step", "influence"} & set(scores) == set())
    assert bool(data["glance"]["by_layer_and_head"]) == ("gradient_step" in scores)
    assert bool(data["glance"]["maps"]["influence"]) == ("influence" in scores)
    assert len(data["layers"]["layers"]) == model.n_layers


def test_a_page_of_a_loaded_explanation_lacks_layers_and_heads_alone(source, explanation, tmp_path):
    explanation.save(tmp_path / "report.json")
    loaded = iclens.Explanation.load(tmp_path / "report.json")
    loaded.save(tmp_path / "page.html")
    data, whole = data_of((tmp_path / "page.html").read_text(encoding="utf-8")), data_of(source)
    for name in ("explanation", "model"):
        assert data[name] == whole[name], name
    for name in ("probability", "by_layer_and_head", "maps", "n_tokens", "without"):
        assert data["glance"][name] == whole["glance"][name], name
    for name in ("demonstrations", "query", "answers", "answer", "off"):
        assert data["ask"][name] == whole["ask"][name], name
    for part in ("layers", "heads"):
        assert "needs the model" in data[part]["failed"]
        assert "failed" not in whole[part]
    for one in (loaded, explanation):
        assert html.unescape(re.search(r'srcdoc="(.*?)"', one.show()._repr_html_(), re.S)[1]) == explained_page(one)


def test_the_answer_that_is_explained_is_asked_for_again(model):
    unlikely = min(iclens.explain(model, TEXT, answers=ANSWERS).candidates, key=lambda one: one.probability).text
    for told, asked in [
        ({"answers": ANSWERS}, (list(ANSWERS), None)),
        ({"answers": ANSWERS, "answer": unlikely}, (list(ANSWERS), unlikely)),
        ({"answer": unlikely}, ([], unlikely)),
        ({}, ([], None)),
    ]:
        data = data_of(explained_page(iclens.explain(model, TEXT, **told)))
        assert (data["ask"]["answers"], data["ask"]["answer"]) == asked


HOSTILE = ["<script>alert(1)</script>", "</script><!--", '"><img src=x onerror=alert(1)>', "{{7*7}} ]]> &amp; \u2028"]


@settings(max_examples=30, deadline=None)
@given(st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=12)))
def test_any_text_leaves_the_page_whole(text):
    written = page.saved({"mode": "saved", "text": text})
    assert data_of(written)["text"] == text
    assert [tag for tag, _ in Elements(written).found] == [tag for tag, _ in Elements(page.saved({"text": ""})).found]


def test_numbers_that_are_not_finite_are_written_as_none(explanation):
    residuals = tuple(dataclasses.replace(one, value=math.nan) for one in explanation.residuals)
    broken = dataclasses.replace(explanation, margin=math.inf, residuals=residuals, lens=None)
    data = data_of(explained_page(broken))
    assert data["explanation"]["exact"] is False
    assert data["explanation"]["margin"] is None
    assert all(one["value"] is None for one in data["explanation"]["residuals"])


def test_every_module_of_the_script_stands_before_those_that_import_it(model):
    page = explained_page(iclens.explain(model, "dog is blick .\n\ncat is"))
    made = {name: page.index(f"modules.{name} = ") for name in re.findall(r"modules\.(\w+) = ", page)}
    assert "elements" in made
    for found in re.finditer(r"= modules\.(\w+);", page):
        assert made.get(found[1], len(page)) < found.start(), found[1]
