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
from iclens.lens.scores.cut_out import cut_out
from iclens.lens.scores.influence import CERTAIN, HALF, influence, logits_at
from iclens.lens.scores.knock_out import hidden_keys, knock_out

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
    again = readouts.margin(logits_at(model, ids, readouts, edges(start), weights))
    torch.testing.assert_close(again, margins, **close)
    size = float(expected.abs().max())
    assert size > 1e-3
    torch.testing.assert_close(found.by_head.sum((1, 2)) / size, expected / size, **close)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_oss"])
def test_weights_of_zero_on_the_querys_edges_are_the_knock_out(name):
    model = lens(name, torch.float64)
    found = traced(model, tokens(24))
    hidden = hidden_keys(GROUPS[None], [[(0,), (1,), (2, 3), (3,), ()]])
    by_mask = knock_out(found, hidden)
    by_weight = cut_out(found, hidden, edges(QUERY_START, 1), most_tokens=50)
    for name in ("margins", "log_probabilities", "margin", "log_probability"):
        torch.testing.assert_close(getattr(by_weight, name), getattr(by_mask, name), rtol=1e-12, atol=1e-12)
    assert float(by_weight.residual.max()) < 1e-12
    # Weights of one are the model itself.
    torch.testing.assert_close(by_weight.margins[:, 4], found.margins, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_oss"])
def test_cut_on_all_later_edges_a_demonstration_might_say_anything(name):
    """No later token sees it, so that other tokens of equal number in its place change nothing."""
    model = lens(name, torch.float64)
    changed = tokens(24).clone()
    changed[:, GROUPS == 1] = (changed[:, GROUPS == 1] + 3) % 20
    hidden = hidden_keys(GROUPS[None], [[(1,)]])
    one, other = (cut_out(traced(model, ids), hidden, edges(0, 1)) for ids in (tokens(24), changed))
    torch.testing.assert_close(one.margins, other.margins, rtol=1e-12, atol=1e-12)
    assert float((one.margin - other.margin).abs().max()) > 1e-6
    assert float((one.margins - one.margin[:, None]).abs().max()) > 1e-6


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


def strengths(lens, weights):
    found = lens.influence(weights)
    by_weight = lens.by_demonstration(found.by_token)
    return float(by_weight.abs().sum()), float(found.margin)


def test_an_uncertain_answer_has_its_influence_at_half_weight_for_two_passes():
    lens = Lens(reader("gpt2"), PROMPTS[0], answers=("w1", "w2"))
    cost = lens.passes.cost
    strength, _ = strengths(lens, None)
    now = lens.passes.cost
    assert strength >= CERTAIN * abs(lens.answer.margin)
    assert now.forward_passes - cost.forward_passes <= 2
    assert now.backward_passes - cost.backward_passes == 1
    torch.testing.assert_close(lens.influence().by_head, lens.influence(HALF).by_head, rtol=0, atol=0)


def test_a_certain_answer_has_its_influence_where_it_is_won():
    prompt = "\n\n".join(["dog is blick .", "saw is nef .", "tiger is blick .", "rabbit is blick .", "cat is"])
    lens = Lens("bundled", prompt, answers=["blick", "nef"])
    found = lens.influence()
    (weight,) = set(found.weights[found.weights != 1].tolist())
    at_half, _ = strengths(lens, HALF)
    margin = lens.answer.margin
    without = float(lens.shares().without)
    assert at_half < CERTAIN * abs(margin - without)
    assert weight < HALF
    # There a relative change of the weights moves the margin more than at any larger weight that was tried.
    tried = [HALF / 16**k for k in range(1, 5)]
    assert weight in tried
    larger = [HALF, *(t for t in tried if t > weight)]
    assert all(weight * strengths(lens, weight)[0] > t * strengths(lens, t)[0] for t in larger)
    # This weight counts as half.
    torch.testing.assert_close(found.by_token, lens.influence(weight).by_token * weight / HALF)
    values = lens.by_demonstration(found.by_token)
    assert min(values[[0, 2, 3]]) > max(0.0, float(values[1]))


def test_each_prompt_of_a_batch_has_its_own_weight():
    from iclens.lens.passes import Passes
    from iclens.lens.read.question import ask

    texts = [
        "\n\n".join(["dog is blick .", "saw is nef .", "tiger is blick .", "cat is"]),
        "\n\n".join(["dog is blick .", "dog is nef .", "cat is"]),
    ]
    alone = [Lens("bundled", text, answers=["blick", "nef"]) for text in texts]
    model = alone[0].model
    together = Passes(model, [ask(model, text, ["blick", "nef"], None) for text in texts]).by_weight.influence()
    for one, own in zip(alone, (together[0], together[1]), strict=True):
        n = one.tokenized.n_tokens
        found = one.influence()
        torch.testing.assert_close(own.weights[:n], found.weights[:n])
        torch.testing.assert_close(own.by_head[..., :n], found.by_head[..., :n], rtol=1e-3, atol=1e-5)
