"""Prompts of a run are its own, wherever it trains; the curriculum widens and lengthens them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training.tiny_runs import tiny

from iclens.errors import UserError
from iclens.training.config import Curriculum
from iclens.training.prompts import BLOCK, PromptStream, derived_seed, evaluation_prompts, narrowed

CPU = torch.device("cpu")


def stream(*configs):
    return PromptStream(configs, [one.make_task() for one in configs], CPU)


def test_garg_curriculum():
    """Garg et al. 2022: d from 5 by 1, points from 11 by 2, every 2,000 steps, up to d = 20 and 41 points."""
    curriculum = Curriculum(every=2000)
    expected = {
        0: (5, 10),
        1999: (5, 10),
        2000: (6, 12),
        3999: (6, 12),
        28_000: (19, 38),
        30_000: (20, 40),
        10**6: (20, 40),
    }
    assert {step: curriculum.stage(step, 20, 40) for step in expected} == expected


@given(
    every=st.integers(1, 9),
    d=st.tuples(st.integers(1, 4), st.integers(0, 3)),
    n=st.tuples(st.integers(0, 4), st.integers(0, 3)),
    step=st.integers(0, 99),
)
def test_stages_grow_to_the_full_prompt_and_never_shrink(every, d, n, step):
    curriculum = Curriculum(every, *d, *n)
    here, next_ = curriculum.stage(step, 6, 8), curriculum.stage(step + 1, 6, 8)
    assert (min(d[0], 6), min(n[0], 8)) <= here <= (6, 8)
    assert here[0] <= next_[0] <= 6
    assert here[1] <= next_[1] <= 8
    assert here == next_ or (step + 1) % every == 0
    assert Curriculum(0, *d, *n).stage(step, 6, 8) == (6, 8)


def test_the_stream_follows_the_curriculum():
    config = tiny(task={"d": 4}, training={"n_context": 6}, curriculum={"every": BLOCK, "d_start": 1, "n_start": 2})
    prompts = stream(config)
    for step in range(6 * BLOCK):
        inputs, labels = prompts.at(step)
        d, n_context = config.curriculum.stage(step, 4, 6)
        assert inputs.shape == (1, 4, n_context + 1, 4)
        assert labels.shape == (1, 4, n_context + 1, 1)
        assert prompts.n_points(step) == [n_context + 1]
        assert not inputs[..., d:].any()
        assert inputs[..., :d].all()


def test_narrowed_inputs_have_the_labels_of_narrowed_inputs():
    task = tiny(task={"d": 5, "noise_std": 0.0}).make_task()
    prompt = narrowed(task, 2).sample(torch.Generator().manual_seed(0), 7, 3)
    full = task.sample(torch.Generator().manual_seed(0), 7, 3)
    torch.testing.assert_close(prompt.inputs[..., :2], full.inputs[..., :2], rtol=0, atol=0)
    assert not prompt.inputs[..., 2:].any()
    torch.testing.assert_close(prompt.labels, prompt.inputs @ prompt.function["weight"])
    assert narrowed(task, 5) is task
    assert narrowed(task, 2).optimal() == task.optimal()


@pytest.mark.parametrize("task", [{"name": "clusters", "d": 8}, {"name": "dictionary", "d": 8}, {"name": "words"}])
def test_inputs_that_depend_on_the_function_cannot_be_narrowed(task):
    config = tiny().from_dict({"task": task, "curriculum": {"every": 8, "d_start": 5}})
    with pytest.raises(UserError, match=rf"cannot be narrowed: set curriculum\.d_start={config.make_task().d} or more"):
        stream(config)
    stream(tiny().from_dict({"task": task, "curriculum": {"every": 8, "d_start": 400}}))


@given(seeds=st.lists(st.integers(0, 3), min_size=2, max_size=4), step=st.integers(0, 20))
def test_a_run_sees_the_same_prompts_beside_any_others(seeds, step):
    configs = [tiny(seed=seed, training={"n_context": 2 + seed}) for seed in seeds]
    together, alone = stream(*configs), [stream(one) for one in configs]
    for place in range(step + 1):
        inputs, labels = together.at(place)
        own = [one.at(place) for one in alone]
    for run, (x, y) in enumerate(own):
        n = x.shape[-2]
        assert torch.equal(inputs[run, :, :n], x[0])
        assert torch.equal(labels[run, :, :n], y[0])
        assert not inputs[run, :, n:].any()
        assert not labels[run, :, n:].any()


@given(step=st.integers(0, 4 * BLOCK))
def test_a_stream_goes_on_from_its_state(step):
    config = tiny(seed=1, curriculum={"every": 5, "n_start": 1, "d_start": 1})
    whole, resumed = stream(config), stream(config)
    for place in range(step):
        whole.at(place)
    resumed.restore(whole.state(step))
    for place in range(step, step + BLOCK + 2):
        for ours, theirs in zip(resumed.at(place), whole.at(place), strict=True):
            assert torch.equal(ours, theirs)


def test_full_batch_descent_sees_one_sample_for_ever():
    prompts = stream(tiny(training={"optimizer": "gd"}))
    first = prompts.at(0)
    for step in (1, BLOCK, 5 * BLOCK + 3):
        assert all(torch.equal(now, then) for now, then in zip(prompts.at(step), first, strict=True))
    later = stream(tiny(training={"optimizer": "gd"}))
    later.restore(prompts.state(5 * BLOCK + 4))
    assert all(torch.equal(now, then) for now, then in zip(later.at(5 * BLOCK + 4), first, strict=True))


def test_training_and_evaluation_prompts_and_parameters_share_no_draws():
    seeds = {derived_seed(seed, purpose) for seed in range(50) for purpose in ("prompts", "evaluation")}
    assert len(seeds | set(range(50))) == 150
    config = tiny()
    evaluation = evaluation_prompts(config, config.make_task())
    assert evaluation.inputs.shape == (16, 6, 3)
    assert not torch.isin(stream(config).at(0)[0], evaluation.inputs).any()


def test_steps_have_prompts_of_their_own():
    prompts = stream(tiny())
    seen = torch.stack([prompts.at(step)[0] for step in range(3 * BLOCK)]).flatten()
    assert len(seen.unique()) == len(seen)
