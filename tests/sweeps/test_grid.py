"""A sweep is the product of its axes, in the order of the file, and every mistake names its path."""

from __future__ import annotations

import math
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.errors import UserError
from iclens.sweeps.grid import axes_of, expand
from iclens.training.config import RunConfig


def runs(text):
    return expand(tomllib.loads(text))


def test_without_a_sweep_there_is_one_run():
    assert expand({"seed": 3}) == [RunConfig(seed=3)]
    assert expand({}) == [RunConfig()]


def test_the_last_axis_varies_fastest():
    configs = runs('[sweep]\n"training.learning_rate" = [0.1, 0.2]\nseed = [0, 1, 2]\n')
    found = [(one.training.learning_rate, one.seed) for one in configs]
    assert found == [(rate, seed) for rate in (0.1, 0.2) for seed in (0, 1, 2)]


def test_the_rest_of_the_configuration_stays():
    configs = runs('seed = 9\n[task]\nname = "linear"\nd = 3\n[training]\nsteps = 7\n[sweep]\n"task.d" = [4, 5]\n')
    assert [(one.seed, one.training.steps, one.task.options["d"]) for one in configs] == [(9, 7, 4), (9, 7, 5)]


def test_quoted_paths_and_nested_tables_say_the_same():
    quoted = runs('[sweep]\n"training.learning_rate" = [0.1, 0.2]\n"training.momentum" = [0.0, 0.5]\n')
    nested = runs("[sweep]\ntraining.learning_rate = [0.1, 0.2]\ntraining.momentum = [0.0, 0.5]\n")
    assert quoted == nested
    assert len(quoted) == 4


def test_together_changes_in_step():
    configs = runs(
        "[sweep]\nseed = [0, 1]\n"
        '[[sweep.together]]\n"model.width" = [16, 32]\n"model.n_heads" = [1, 2]\n'
        '[[sweep.together]]\n"training.steps" = [5, 6, 7]\n'
    )
    found = [
        (one.seed, one.model.options["width"], one.model.options["n_heads"], one.training.steps) for one in configs
    ]
    pairs = [(16, 1), (32, 2)]
    assert found == [(seed, *pair, steps) for seed in (0, 1) for pair in pairs for steps in (5, 6, 7)]


def test_whole_tables_may_be_values():
    configs = runs('[sweep]\ntask = [{name = "linear", d = 3}, {name = "linear", d = 4}]\n')
    assert [one.task.options["d"] for one in configs] == [3, 4]
    configs = runs('[[sweep.task]]\nname = "linear"\nd = 3\n[[sweep.task]]\nname = "linear"\nd = 4\n')
    assert [one.task.options["d"] for one in configs] == [3, 4]


@given(start=st.integers(-50, 50), stop=st.integers(-50, 50), step=st.integers(-9, 9).filter(bool))
def test_a_range_of_whole_numbers_is_pythons(start, stop, step):
    expected = list(range(start, stop, step))
    table = {"seed": {"start": start, "stop": stop, "step": step}}
    if expected:
        assert [value for (value,) in axes_of(table)[0].points] == expected
    else:
        with pytest.raises(UserError, match=r"sweep\.seed is empty"):
            axes_of(table)


def test_a_range_of_decimals_has_the_decimals_that_were_written():
    (axis,) = axes_of({"task.noise_std": {"start": 0.0, "stop": 0.5, "step": 0.1}})
    assert axis.points == ((0.0,), (0.1,), (0.2,), (0.3,), (0.4,))
    (axis,) = axes_of({"seed": {"range": 3}})
    assert axis.points == ((0,), (1,), (2,))
    assert all(isinstance(value, int) for (value,) in axis.points)


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_the_number_of_runs_is_the_product(sizes):
    names = ["seed", "training.steps", "training.batch"]
    sweep = {name: {"start": 1, "stop": 1 + size} for name, size in zip(names, sizes, strict=False)}
    configs = expand({"sweep": sweep})
    assert len({one.key() for one in configs}) == len(configs) == math.prod(sizes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sweep = 3", r"sweep must be a table of paths and lists, not 3"),
        ("[sweep]\nseed = 3", r"sweep\.seed=3 must be a list of values"),
        ("[sweep]\nseed = []", r"sweep\.seed is empty"),
        ("[sweep.training]", r"sweep\.training is empty"),
        ("[sweep]\nseed = {range = 0}", r"sweep\.seed is empty"),
        ("[sweep]\nseed = {range = 2.5}", r"sweep\.seed: range=2\.5 must be a whole number"),
        ("[sweep]\nseed = {start = 0, stop = 3, step = 0}", r"sweep\.seed: step must not be 0"),
        ("[sweep]\nseed = {start = 0, stop = 'x'}", r"sweep\.seed: stop='x' must be a number"),
        ("[sweep]\nseed = {start = 0, stop = inf}", r"sweep\.seed: stop=inf must be a number"),
        ("[sweep]\nseed = {range = 10000000}", r"sweep\.seed has 10000000 values; at most 1000000"),
        ("[sweep]\nseed = {range = 9999}\n'training.steps' = {range = 9999}", r"99980001 runs; at most 1000000"),
        ("[sweep]\nseed = [0, 1, 0]", r"the same run twice: at seed=0, and at seed=0"),
        ("[sweep]\n'training.learning_rate' = [1, 1.0]", r"the same run twice: at training\.learning_rate=1, and"),
        ("[sweep]\ntraining.steps = [1]\n'training.steps' = [2]", r"the sweep sets training\.steps twice"),
        ("[sweep]\nseed = [1]\n[[sweep.together]]\nseed = [2]", r"the sweep sets seed twice"),
        ("[sweep]\ntask = [{d = 1}]\n'task.d' = [2]", r"the sweep sets task and task\.d, which lies inside it"),
        (
            "[[sweep.together]]\nseed = [1, 2]\n'training.steps' = [1]",
            r"equally long: seed has 2, training\.steps has 1",
        ),
        ("[sweep]\ntogether = [1]", r"write \[\[sweep\.together\]\]"),
        ("[sweep]\n'training.stepz' = [1]", r"at training\.stepz=1: training has no key 'stepz'. Did you mean 'steps'"),
        ("[sweep]\n'seed.x' = [1]", r"at seed\.x=1: .* must be a whole number"),
        ("seed = 1\n[sweep]\n'seed.x' = [1]", r"at seed\.x=1: seed\.x cannot be set: seed is 1, not a table"),
        ("[sweep]\n'training.steps' = [5, 0]", r"at training\.steps=0: training\.steps=0 must be at least 1"),
        ("[sweep]\n'a b' = [5]", r"'a b' is not a dotted path"),
        ("seed = -1", r"^seed=-1 must be"),
    ],
)
def test_mistakes_name_their_path(text, message):
    with pytest.raises(UserError, match=message):
        runs(text)
