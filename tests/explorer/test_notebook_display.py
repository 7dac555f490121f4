"""What a notebook shows of an explanation and of a dual model."""

import re

import torch

import iclens
from iclens.dual import DualModel

TEXT = "cat is vux .\n\n<b>apple</b> is nef .\n\nhorse is"


def cells(text):
    return [float(value) for value in re.findall(r"<td>([-+\d.e]+)</td>", text)]


def test_an_explanation_shows_its_ranking_and_escapes_its_text(model):
    explanation = iclens.explain(model, TEXT, answers=["vux", "nef"])
    shown = explanation._repr_html_()
    assert "<b>apple" not in shown
    assert "&lt;b&gt;apple&lt;/b&gt;" in shown
    expected = [round(one.score(name), 3) for one in explanation.ranked() for name in explanation.scores]
    assert cells(shown) == expected
    assert "exact to rounding" in shown


def test_a_dual_model_shows_its_demonstrations():
    q, k, v = torch.randn(1, 4), torch.randn(6, 4), torch.randn(6, 3)
    dual = DualModel.from_attention(q, k, v, demonstrations=5)
    shown = cells(dual._repr_html_())
    assert shown[::4] == [round(value, 3) for value in dual.weights()[0].tolist()]
    assert shown[3::4] == [round(value, 3) for value in dual.alignment().after[0].tolist()]


def test_a_dual_model_of_many_heads_and_queries_shows_means():
    q, k, v = torch.randn(2, 3, 4), torch.randn(2, 70, 4), torch.randn(2, 70, 3)
    dual = DualModel.from_attention(q, k, v, demonstrations=60)
    shown = dual._repr_html_()
    assert len(cells(shown)) == 4 * 50
    assert "10 more" in shown
    assert "6 queries" in shown
    assert cells(shown)[0] == round(float(dual.weights().mean((0, 1))[0]), 3)
