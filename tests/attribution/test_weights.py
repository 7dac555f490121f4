"""Scores of training weights and of their corrections: against the lens, the model's own attention, and games."""

from __future__ import annotations

import pytest
import torch
from tests.attribution.test_methods import Game, margins, seeded
from tests.lens.word_learner import PAIRS, learner, shared_lens

from iclens.attribution import ATTRIBUTIONS
from iclens.attribution.influence_mirrored import HIGH, LOW
from iclens.attribution.lasso import ablations
from iclens.attribution.shared.correction import corrected
from iclens.attribution.shared.designs import walsh

N = len(PAIRS)


def by_lens(weights) -> torch.Tensor:
    one = shared_lens()
    return one.by_demonstration(one.influence(weights).by_token)


def test_influences_at_several_weights_are_the_lens_s_own():
    weights = torch.rand(3, N, generator=seeded()).double() + 0.1
    found = shared_lens().influences(weights)
    torch.testing.assert_close(found, torch.stack([by_lens(row.tolist()) for row in weights]))


def test_masked_hides_each_demonstration_from_all_later_tokens():
    one, model = shared_lens(), learner().model
    n = len(one.input_ids)
    causal = torch.ones(n, n).tril().bool()
    found = []
    model.set_attn_implementation("eager")
    for i in [-2, *range(N)]:
        allowed = causal.clone()
        allowed[(one.groups != i)[:, None] & (one.groups == i)] = False
        bias = torch.zeros(1, 1, n, n).masked_fill(~allowed, -torch.inf)
        logits = model(input_ids=one.input_ids[None], attention_mask=bias).logits[0, -1].detach()
        found.append(margins(one, logits[None, None])[0])
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(one.score("masked").values, found[0] - torch.stack(found[1:]))


def test_mirrored_influence_is_the_mean_of_a_split_and_its_mirror_image():
    chosen = torch.randperm(N, generator=seeded(3)) < N // 2
    one, other = (torch.where(some, HIGH, LOW).tolist() for some in (chosen, ~chosen))
    found = ATTRIBUTIONS["influence_mirrored"](shared_lens(), seeded(3)).values
    torch.testing.assert_close(found, (by_lens(one) + by_lens(other)) / 2)


def test_influence_and_knock_out_are_averaged_in_nats():
    one = shared_lens()
    both = one.score("influence").values + one.score("knock_out").values
    torch.testing.assert_close(one.score("influence_knock_out").values, both / 2)


def test_sensitivity_does_not_let_heads_and_tokens_cancel():
    one = shared_lens()
    by_head = one.influence().by_weight
    lower = by_head[: (len(by_head) + 1) // 2]
    sizes = torch.stack([lower[..., one.groups == i].abs().sum() for i in range(N)])
    found = one.score("sensitivity").values
    torch.testing.assert_close(found, sizes)
    assert bool((found >= one.by_demonstration(lower.sum((0, 1))).abs()).all())


def test_two_shares_are_gauss_legendre():
    nodes = [0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5]
    expected = (by_lens(nodes[0]) + by_lens(nodes[1])) / 2
    torch.testing.assert_close(shared_lens().score("shares_2").values, expected)


def test_corrected_scores_that_predict_everything_stay_as_they_are():
    scores, keep = torch.randn(6, generator=seeded()).double(), torch.rand(20, 6, generator=seeded(1)) < 0.5
    torch.testing.assert_close(corrected(scores, keep, 3.0 + keep.double() @ scores), scores)


@pytest.mark.parametrize("factor", [2.5, 0.0, -1.0])
def test_many_deletions_outweigh_what_the_scores_say(factor):
    scores, keep = torch.randn(6, generator=seeded()).double(), torch.rand(2000, 6, generator=seeded(1)) < 0.5
    found = corrected(scores, keep, 3.0 + factor * keep.double() @ scores)
    torch.testing.assert_close(found, factor * scores, rtol=0.02, atol=0.02)


def test_what_is_not_additive_corrects_nothing():
    """Of margins that depend on all demonstrations at once, none foretells another; the scores are scaled at most."""
    scores, keep = torch.rand(4, generator=seeded()).double() + 0.5, walsh(4, 16, clear=True)
    parity = 1.0 - 2.0 * (keep.sum(1) % 2)
    found = corrected(scores, keep, parity)
    torch.testing.assert_close(found / found.sum(), scores / scores.sum())


@pytest.mark.parametrize("n_deletions", [8, 16])
def test_hybrids_come_nearer_to_planted_effects_than_the_deletions_alone(n_deletions):
    effects = torch.tensor([3.0, 0.0, -2.0, 0.5, 0.0])
    game = Game(lambda row: row.double() @ effects)
    keep = ablations(game, seeded(), n_deletions)
    near = corrected(effects + 0.1 * torch.randn(N, generator=seeded(5)), keep, game.deletions(keep).margins)
    alone = corrected(torch.zeros(N), keep, game.deletions(keep).margins)
    assert float((near - effects).norm()) < float((alone - effects).norm())


def test_larger_ablations_contain_the_smaller():
    few, many = (ablations(shared_lens(), seeded(), n) for n in (8, 32))
    assert torch.equal(few, many[:8])


def test_gradient_norm_is_of_the_gradient_times_input_s_gradient():
    one = shared_lens()
    layer = learner().model.get_input_embeddings()
    inputs = layer(one.input_ids)[None].detach().requires_grad_()
    margins(one, learner().model(inputs_embeds=inputs, use_cache=False).logits[:, -1:]).sum().backward()
    expected = one.by_demonstration(inputs.grad[0].abs().sum(-1))
    torch.testing.assert_close(one.score("gradient_norm").values, expected)
