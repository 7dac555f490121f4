"""What surrounds a call must not change what it says: training mode, gradients switched off, iterators, pickles."""

from __future__ import annotations

import inspect
import pickle
from functools import cache

import numpy as np
import pytest
import torch
from tests.cli.batches import text

import iclens
from iclens import Explanation, UserError
from iclens.lens import LensModel

# Tests may check types at run time, and some of these arguments are of none that is promised.
explain = inspect.unwrap(iclens.explain)

PROMPT = text(4)
ANSWERS = ("vux", "nef")


@cache
def model() -> LensModel:
    return iclens.load("bundled")


@cache
def found() -> Explanation:
    return explain(model(), PROMPT, answers=list(ANSWERS), scores=("path", "rerun"))


def test_a_model_in_training_mode_is_explained_as_in_eval_mode_and_stays_in_training_mode():
    try:
        model().model.train()
        trained = explain(model(), PROMPT, answers=list(ANSWERS), scores=("path", "rerun"))
        assert model().model.training
    finally:
        model().model.eval()
    assert trained.sources == found().sources


def test_gradients_that_the_caller_switched_off_change_nothing():
    with torch.no_grad():
        assert explain(model(), PROMPT, answers=list(ANSWERS), scores=("path", "rerun")).sources == found().sources


def test_inference_mode_is_refused():
    with torch.inference_mode(), pytest.raises(UserError, match="inference_mode"):
        explain(model(), PROMPT)


def test_iterators_say_what_lists_say():
    given = explain(model(), PROMPT, answers=iter(ANSWERS), scores=(name for name in ("path", "rerun")))
    assert given.sources == found().sources


def test_groups_may_be_of_arrays():
    (group,) = explain(model(), PROMPT, knock_out=np.array([[0, 2]])).group_knock_outs
    assert group == explain(model(), PROMPT, knock_out=[(0, 2)]).group_knock_outs[0]


def test_an_explanation_survives_a_pickle():
    assert pickle.loads(pickle.dumps(found())) == found()


@pytest.mark.parametrize("name", ["gradient_x_input", "integrated_gradients", "attention_rollout"])
def test_the_cost_is_the_prompts_that_the_model_read(name):
    seen = []

    def count(module, _, inputs):
        seen.append(len(inputs["input_ids" if inputs.get("input_ids") is not None else "inputs_embeds"]))

    handle = model().model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        explanation = explain(model(), PROMPT, answers=list(ANSWERS), scores=[name])
    finally:
        handle.remove()
    assert explanation.cost.forward_passes == sum(seen)


@pytest.mark.parametrize("name", ["lasso_margin", "rerun", "factorial"])
def test_the_cost_of_deletions_is_the_share_of_the_prompt_s_tokens_that_the_model_read(name):
    seen = []

    def count(module, _, inputs):
        seen.append(inputs["input_ids"].numel())

    # A tree is held against the model's own pass once, which no explanation pays for.
    explain(model(), PROMPT, answers=list(ANSWERS), scores=[name])
    handle = model().model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        explanation = explain(model(), PROMPT, answers=list(ANSWERS), scores=[name])
    finally:
        handle.remove()
    assert explanation.cost.forward_passes == pytest.approx(sum(seen) / len(explanation.tokens), rel=1e-3)


@pytest.mark.parametrize("n_next", [0, -1])
def test_at_least_one_next_token_is_shown(n_next):
    with pytest.raises(UserError, match="n_next"):
        explain(model(), PROMPT, n_next=n_next)
