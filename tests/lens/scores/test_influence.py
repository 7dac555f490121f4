"""Influence is the derivative of the margin with respect to training weights, whatever the family."""

from __future__ import annotations

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, reader
from tests.lens.zoo import CAUSAL, GROUPS, QUERY_START, TWO_POSITIONS, lens, tokens, traced

from iclens.errors import UserError
from iclens.lens.lens import Lens
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.attend import repeat, scores_of, weigh
from iclens.lens.read.capture import run
from iclens.lens.read.margin import Readouts
from iclens.lens.read.padded import PaddedTokens
from iclens.lens.read.weighted import Edges
from iclens.lens.scores.influence import influence, margins_at

SINGLE = {"hunyuan_v1_dense"}

WEIGHTS = torch.tensor([[1.0, 0.5, 2.0, 0.25, 1.0], [0.7, 0.7, 0.7, 0.7, 1.0]], dtype=torch.float64)
"""Of the four demonstrations, and of the tokens in none, in two rows of a batch."""


def prompts(model, n_rows=2):
    rows = list(tokens(24).expand(n_rows, -1))
    ids = PaddedTokens.of(rows, [QUERY_START] * n_rows, model.device)
    return ids, Readouts.of([TWO_POSITIONS] * n_rows, [0] * n_rows, model.index_device)


def edges(start, n_rows=2):
    return Edges(GROUPS.expand(n_rows, -1), torch.full((n_rows,), start))


def by_autograd(model, start, weights):
    """The naive way: a score bias that takes a gradient, through attention that is written out."""
    ids, readouts = prompts(model)
    logarithms = weights.log().requires_grad_()
    edge = (GROUPS >= 0) & (GROUPS[:, None] != GROUPS) & (torch.arange(24) >= start)[:, None]

    def attend(call: AttentionCall) -> torch.Tensor:
        bias = (logarithms[:, None] * edge)[:, None].to(call.q)
        alpha = weigh(scores_of(call, call.q), call.rows(), call.softcap, call.sinks, bias)
        return alpha @ repeat(call.v, call.groups)

    with torch.enable_grad(), attending(model, attend, wants_mask=True):
        margins = readouts.margin(run(model, ids.ids)[:, readouts.positions[0]])
        (gradient,) = torch.autograd.grad(margins.sum(), logarithms)
    return margins.detach(), gradient


@pytest.mark.parametrize("start", [0, QUERY_START], ids=["all later edges", "the query's edges"])
@pytest.mark.parametrize("name", CAUSAL)
def test_one_backward_pass_equals_autograd_through_biased_scores(name, start):
    model = lens(name, torch.float64)
    ids, readouts = prompts(model)
    weights = WEIGHTS[:, GROUPS]
    found = influence(model, ids, readouts, edges(start), weights)
    margins, expected = by_autograd(model, start, weights)
    # A family that computes a part in float32 whatever the model's type keeps seven digits.
    close = dict.fromkeys(("rtol", "atol"), 1e-6 if name in SINGLE else 1e-12)
    torch.testing.assert_close(found.margin, margins, **close)
    torch.testing.assert_close(margins_at(model, ids, readouts, edges(start), weights), margins, **close)
    size = float(expected.abs().max())
    assert size > 1e-3
    torch.testing.assert_close(found.by_head.sum((1, 2)) / size, expected / size, **close)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_oss"])
def test_weights_of_one_are_the_model_itself_and_weights_of_zero_the_knock_out(name):
    from iclens.lens.scores.knock_out import hidden_keys, knock_out

    model = lens(name, torch.float64)
    found = traced(model, tokens(24))
    ids, readouts = prompts(model, 5)
    ones = torch.ones(5, 24, dtype=torch.float64)
    for i in range(4):
        ones[i, i == GROUPS] = 0.0
    margins = margins_at(model, ids, readouts, edges(QUERY_START, 5), ones)
    without = knock_out(found, hidden_keys(GROUPS[None], [[(0,), (1,), (2,), (3,)]]))[0]
    torch.testing.assert_close(margins[:4], without.margins, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(margins[4], found.margins[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("query_only", [False, True], ids=["all later edges", "the query's edges"])
@pytest.mark.parametrize("name", ["gpt2", "deepseek_v2", "llama4_text"])
def test_it_is_the_slope_of_the_margin_in_the_weight_of_one_demonstration(name, query_only):
    lens = Lens(reader(name), PROMPTS[0], answers=("w1", "w2"))
    weights, step = [0.8, 0.5, 1.5], 1e-4
    found = lens.by_demonstration(lens.influence(weights, query_only=query_only).by_token)
    for i, slope in enumerate(found.tolist()):
        margins = []
        for sign in (-1, 1):
            moved = [w + sign * step * (i == j) for j, w in enumerate(weights)]
            margins.append(float(lens.influence(moved, query_only=query_only).margin))
        assert (margins[1] - margins[0]) / (2 * step) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_one_weight_for_all_is_that_weight_for_each():
    lens = Lens(reader("gpt2"), PROMPTS[0])
    one, each = lens.influence(0.7), lens.influence([0.7] * 3)
    torch.testing.assert_close(one.by_head, each.by_head, rtol=0, atol=0)
    # The same question runs nothing.
    cost = lens.passes.cost
    lens.influence([0.7] * 3)
    assert lens.passes.cost == cost
    assert float(lens.influence(1.0).margin) == pytest.approx(lens.answer.margin, rel=1e-12)


def test_weights_that_make_no_sense_are_refused():
    lens = Lens(reader("gpt2"), PROMPTS[0])
    with pytest.raises(UserError, match="there are 2 weights for 3 demonstrations"):
        lens.influence([1.0, 1.0])
    for weights in (0.0, -1.0, [1.0, 0.0, 1.0], float("nan")):
        with pytest.raises(UserError, match="not positive"):
            lens.influence(weights)
    with torch.inference_mode(), pytest.raises(UserError, match="inference_mode"):
        Lens(reader("gpt2"), PROMPTS[0]).influence()
