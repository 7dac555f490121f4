"""Shares divide what the demonstrations change, up to a gap that is told, whatever the model and the company."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, questions, reader

from iclens.errors import UserError
from iclens.lens.explaining import explain, explain_many, explain_together
from iclens.lens.explanation import Explanation
from iclens.lens.lens import Lens
from iclens.lens.passes import Passes
from iclens.lens.scores.shares import COMPLETE, shares

FAMILIES = ["gpt2", "qwen2-window", "gemma2", "gpt_oss"]


def a_lens(name: str = "gpt2", **options: Any) -> Lens:
    return Lens(reader(name), PROMPTS[1], answers=("w1", "w2 w3"), **options)


@pytest.mark.parametrize("query_only", [False, True], ids=["all later edges", "the query's edges"])
@pytest.mark.parametrize("name", FAMILIES)
def test_they_sum_to_what_the_demonstrations_change(name: str, query_only: bool) -> None:
    lens = a_lens(name)
    found = lens.shares(query_only=query_only)
    own = lens.by_demonstration(found.by_token)
    change = float(found.margin - found.without)
    assert float(found.margin) == pytest.approx(lens.answer.margin, rel=1e-12)
    assert abs(float(own.sum()) - change) == pytest.approx(
        float(found.gap) * max(abs(change), float(own.abs().max())), rel=1e-9, abs=1e-12
    )
    assert (float(own.abs().max()) > 1e-3) & (not found.by_head[..., lens.groups < 0].any())
    weights = found.weights[: int(found.n_nodes)]
    assert 0.5 in weights.tolist()
    assert bool((weights > 0).all() & (weights <= 1).all() & (weights.diff() > 0).all())
    if query_only:
        # Without any edge of the query into demonstrations, the margin is that of knocking out all of them.
        (without,) = lens.knock_out([range(lens.n_demonstrations)]).margins.tolist()
        assert float(found.without) == pytest.approx(without, rel=1e-10)


@pytest.mark.parametrize("name", ["gpt2", "qwen2-window", "gemma2"])
def test_enough_weights_complete_them(name: str) -> None:
    assert float(a_lens(name).shares(100).gap) <= COMPLETE


def polynomial(powers: torch.Tensor) -> Any:
    """A model whose margin is Σ_i t^power_i, and what `shares` asks of it, for a token and a demonstration each."""

    def take(weights: torch.Tensor, chosen: torch.Tensor) -> Any:
        one = weights[:, None] ** powers
        return SimpleNamespace(
            by_head=(powers * one)[:, None, None], margin=one.sum(-1), residual=torch.zeros(len(one))
        )

    return take


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5, 0.1])
def test_the_shares_of_a_power_law_are_known(power: float) -> None:
    """M(t) = t^a + t gives 1 and 1, from a margin that rises evenly to one that is saturated from the start."""
    powers = torch.tensor([power, 1.0], dtype=torch.float64)
    most = [1, 2, 4, 8, 16, 32]
    ends = torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([[0, 1]])
    found = [shares(polynomial(powers), *ends, nodes=n) for n in most]
    gaps = [float(one.gap) for one in found]
    assert gaps[-1] <= COMPLETE
    # One weight in the middle is exact for margins that are at most quadratic.
    assert gaps[-1] < gaps[0] or power >= 1.0
    for n, one in zip(most, found, strict=True):
        assert one.weights.shape == (1, n)
        assert 1 <= int(one.n_nodes) <= n
    torch.testing.assert_close(found[-1].by_token[0], torch.ones(2).double(), rtol=0, atol=2 * COMPLETE)


def test_more_weights_are_taken_until_the_errors_are_small() -> None:
    whole = a_lens().shares()
    assert 1 < int(whole.n_nodes) < 16
    for n in range(1, int(whole.n_nodes)):
        some = a_lens(nodes=n).shares()
        assert int(some.n_nodes) == n
        # The weights nest: each step adds one.
        assert set(some.weights.tolist()) < set(whole.weights.tolist())
    again = a_lens().shares(40)
    torch.testing.assert_close(again.by_head, whole.by_head, rtol=1e-12, atol=1e-12)


def test_half_weight_is_shared_with_the_influence_and_every_weight_costs_two_passes() -> None:
    lens = a_lens()
    lens.influence()
    before = lens.passes.cost
    found = lens.shares()
    after = lens.passes.cost
    assert after.backward_passes - before.backward_passes == int(found.n_nodes) - 1
    # One forward pass for the margin without demonstrations.
    assert after.forward_passes - before.forward_passes == pytest.approx(int(found.n_nodes))
    lens.shares()
    assert lens.passes.cost == after


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_side_by_side_have_weights_and_shares_of_their_own(name: str) -> None:
    model = reader(name)
    asked = questions(model)
    together = Passes(model, asked)
    whole, at_half = together.by_weight.shares(), together.by_weight.influence()
    assert len({tuple(one) for one in whole.weights.tolist()}) > 1
    for b, question in enumerate(asked):
        lens = Lens(model, question)
        alone, n = lens.shares(), len(lens.input_ids)
        torch.testing.assert_close(whole[b].by_head[..., :n], alone.by_head, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(whole[b].weights, alone.weights, equal_nan=True)
        torch.testing.assert_close(whole[b].without, alone.without, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(at_half[b].by_head[..., :n], lens.influence().by_head, rtol=1e-10, atol=1e-12)
        assert not whole[b].by_head[..., n:].any()


SCORES = ("influence", "shares", "gradient_step")


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_explanations_split_them_by_token_layer_and_head(name: str) -> None:
    model = reader(name)
    asked = questions(model)
    for found, question in zip(explain_together(model, asked, SCORES), asked, strict=True):
        alone = Lens(model, question).explanation(SCORES)
        for effect, same in zip(found.sources, alone.sources, strict=True):
            for score in ("influence", "shares"):
                value = effect.score(score)
                assert value == pytest.approx(same.score(score), rel=1e-8, abs=1e-10)
                assert sum(map(sum, effect.maps[score])) == pytest.approx(value, rel=1e-9, abs=1e-12)
                own = [token.scores[score] for token in found.tokens if token.part == effect.index]
                assert sum(own) == pytest.approx(value, rel=1e-9, abs=1e-12)
                assert all(token.scores[score] == 0.0 for token in found.tokens if token.part is None)
        total = found.total_by_layer_and_head("shares")
        change = found.margin - found.completeness.without
        shared = sum(effect.score("shares") for effect in found.sources)
        assert sum(map(sum, total)) == pytest.approx(shared, rel=1e-9, abs=1e-12)
        assert found.completeness.holds == (found.completeness.gap <= COMPLETE)
        largest = max(abs(change), *(abs(effect.score("shares")) for effect in found.sources))
        assert abs(shared - change) == pytest.approx(found.completeness.gap * largest, rel=1e-6, abs=1e-10)
        assert found.exact


def test_shares_that_are_not_complete_say_how_far(tmp_path: Any) -> None:
    found = explain(reader("gpt2"), PROMPTS[1], scores=["shares"], nodes=1)
    assert (found.completeness.weights, found.completeness.holds) == ((0.5,), False)
    (note,) = [one for one in found.notes if "not complete" in one]
    assert f"off by {100 * found.completeness.gap:.0f} %" in note
    text = str(found)
    assert "incomplete" in text
    assert "all together" in text
    # They are the model's own numbers all the same.
    assert found.exact
    assert [row["scores"]["shares"] for row in found.to_rows()] == [one.score("shares") for one in found.sources]
    assert found.to_rows()[0]["completeness_gap"] == found.completeness.gap
    found.save(tmp_path / "e.json")
    assert Explanation.load(tmp_path / "e.json") == replace(found, lens=None)


def test_many_prompts_take_no_more_weights_than_they_are_given() -> None:
    for found in explain_many(reader("llama"), PROMPTS, scores=["shares"], nodes=2):
        assert len(found.completeness.weights) <= 2


def test_fewer_than_one_weight_is_refused() -> None:
    with pytest.raises(UserError, match="nodes is 0: take at least 1"):
        a_lens().shares(0)
