"""Training on two hops: equal recipes give equal weights, the start is left as it is, failure is said."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from iclens.errors import UserError
from iclens.training.language.chain_learner import CURRICULUM, ChainRecipe, train_chains
from iclens.training.language.learner import BundledRecipe, build_model

QUICK = ChainRecipe(batch=2, threshold=-1.0, final_steps=2)


@pytest.fixture
def start():
    return build_model(BundledRecipe(n_layers=1, n_heads=1, width=8, inner_width=8))


def test_equal_recipes_give_equal_weights_and_leave_the_start_alone(start):
    before = {name: value.clone() for name, value in start.state_dict().items()}
    seen = []
    first = train_chains(start, QUICK, lambda done, total: seen.append((done, total)))
    again = train_chains(start, QUICK)
    other = train_chains(start, dataclasses.replace(QUICK, seed=2))
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
        assert torch.equal(start.state_dict()[name], before[name])
    assert not torch.equal(first.model.lm_head.weight, other.model.lm_head.weight)
    assert not torch.equal(first.model.lm_head.weight, start.lm_head.weight)
    # Every stage is mastered at once at this threshold; then come the final steps.
    assert first.stage_ends == tuple(range(len(CURRICULUM)))
    assert seen[-1] == (len(CURRICULUM) + 2, len(CURRICULUM) + 2)
    assert seen[0] == (1, None)
    assert not first.model.training


def test_a_stage_that_is_not_mastered_is_said(start):
    with pytest.raises(UserError, match="stage 1 of 4 of two hops was not mastered within 3 steps"):
        train_chains(start, dataclasses.replace(QUICK, threshold=0.99, patience=3))


def test_record_holds_the_recipe(start):
    record = train_chains(start, QUICK).record()
    assert record["recipe"]["seed"] == QUICK.seed
    assert record["curriculum"][-1] == 6
