"""Runs are grouped by what can train together, and a chunk stays under the cap of memory."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.tiny_runs import tiny

from iclens.models.model import PromptModel
from iclens.sweeps.chunks import bytes_per_run, groups, plan, seconds_per_step
from iclens.training.ensemble import Ensemble


def test_groups_are_runs_of_one_shape_in_their_order():
    configs = [
        tiny(seed=seed, model={"width": width}, training={"learning_rate": rate})
        for seed, width, rate in itertools.product((0, 1), (8, 16), (0.1, 0.2))
    ]
    found = groups(configs)
    assert [[one.model.options["width"] for one in group] for group in found] == [[8] * 4, [16] * 4]
    assert [one.key() for group in found for one in group] == [
        one.key() for width in (8, 16) for one in configs if one.model.options["width"] == width
    ]
    for group in found:
        Ensemble(group)
    assert groups([]) == []


@given(size=st.integers(1, 9), fits=st.integers(1, 9))
@settings(max_examples=10, deadline=None)
def test_a_chunk_stays_under_the_cap(size, fits):
    group = [tiny(seed=seed) for seed in range(size)]
    each = bytes_per_run(group[0])
    found = plan(group, int((fits + 0.5) * each), steps=1)
    assert 1 <= found.size <= min(size, fits)
    assert found.bytes_per_run == each > 0
    assert max(found.measured) <= min(size, fits)
    assert found.seconds > 0


def test_one_run_is_trained_whatever_the_cap():
    assert plan([tiny(), tiny(seed=1)], 1, steps=1).size == 1


def test_the_size_with_the_least_time_a_run_is_taken():
    """Stacking pays up to four runs on this machine, and no larger size is tried once two are much worse."""
    cost = {1: 1.0, 2: 1.2, 4: 1.6, 8: 4.0, 16: 9.0, 32: 9.0}
    tried = []

    def seconds(configs, device, steps):
        tried.append(len(configs))
        return cost[len(configs)]

    found = plan([tiny(seed=seed) for seed in range(32)], 2**40, seconds=seconds)
    assert tried == [1, 2, 4, 8, 16]
    assert (found.size, found.seconds) == (4, pytest.approx(1.6))
    assert found.measured == {size: cost[size] / size for size in tried}


def test_time_in_which_other_work_has_the_processor_is_not_the_step_s():
    """A step that waits, as it does on a busy machine, costs no more than one that does not."""
    assert torch.get_num_threads() == 1
    pause = 0.1

    def wait(module, inputs):
        if isinstance(module, PromptModel):
            time.sleep(pause)

    held_up = torch.nn.modules.module.register_module_forward_pre_hook(wait)
    try:
        began = time.perf_counter()
        seconds = seconds_per_step([tiny(), tiny(seed=1)], "cpu", 2)
        assert time.perf_counter() - began > 3 * pause
    finally:
        held_up.remove()
    assert 0 < seconds < pause


def test_one_size_that_was_held_up_does_not_end_the_search():
    cost = {1: 1.0, 2: 9.0, 4: 1.2}
    found = plan([tiny(seed=seed) for seed in range(4)], 2**40, seconds=lambda some, *_: cost[len(some)])
    assert found.size == 4


def test_the_last_size_tried_is_the_largest_allowed():
    found = plan([tiny(seed=seed) for seed in range(11)], 2**40, seconds=lambda *_: 1.0)
    assert sorted(found.measured) == [1, 2, 4, 8, 11]
    assert found.size == 11


def test_the_estimate_grows_with_what_the_memory_is_for():
    small = bytes_per_run(tiny())
    assert bytes_per_run(tiny(training={"batch": 40})) > 5 * small / 2
    assert bytes_per_run(tiny(model={"width": 64})) > 2 * small
    assert bytes_per_run(tiny(training={"dtype": "float32"})) < 0.7 * small


def test_the_estimate_holds_what_a_step_allocates():
    """The activations that the backward pass keeps, by hand: a lower bound of the estimate."""
    config = tiny(training={"batch": 64, "n_context": 20}, model={"width": 32})
    tokens = 64 * 41
    # LayerNorm's input, queries, keys and values, the attention's output, and the residual stream, in float64.
    at_least = tokens * 32 * (1 + 3 + 1 + 1) * 8
    ensemble = Ensemble([config])
    parameters = sum(value.numel() for value in ensemble.model.parameters())
    assert at_least + 4 * 8 * parameters < bytes_per_run(config) < 20 * (at_least + 5 * 8 * parameters)


def test_a_group_is_as_large_as_its_largest_run():
    """Shorter prompts are padded and missing heads are zero, but both take their memory."""
    group = [
        tiny(training={"n_context": n_context}, model={"head_width": 4, "n_heads": n_heads})
        for n_context, n_heads in ((2, 1), (9, 1), (2, 5))
    ]
    assert len(groups(group)) == 1
    largest = tiny(training={"n_context": 9}, model={"head_width": 4, "n_heads": 5})
    assert plan(group, 2**40, steps=1).bytes_per_run == bytes_per_run(largest) > 2 * bytes_per_run(group[0])


def test_prompts_are_counted():
    wide = tiny(task={"d": 400})
    assert bytes_per_run(wide) - bytes_per_run(tiny()) > 8 * 4 * 6 * 400 * 8


def test_a_curriculum_is_measured_at_its_end():
    """Its first prompts are short, and would hide what the last ones need."""
    assert bytes_per_run(tiny(curriculum={"every": 10, "n_start": 0, "d_start": 1})) == bytes_per_run(tiny())


def test_measuring_leaves_no_trace():
    """What is measured is thrown away: a run that trains afterwards is what it would have been."""
    config = tiny()
    before = [float(loss) for loss in (Ensemble([config]).step(),)]
    state = torch.get_rng_state()
    plan([config, tiny(seed=1)], 2**40, steps=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert [float(Ensemble([config]).step())] == before
