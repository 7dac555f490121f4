"""Laws that every registered task obeys."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.errors import UserError
from iclens.estimators.estimator import ESTIMATORS, build_estimator
from iclens.tasks.task import TASKS, Optimal, Task, build_task

NOISE_OPTIONS = {"noise_std", "tau"}

OURS = [
    "anisotropic",
    "clusters",
    "decision-tree",
    "digits",
    "exponential",
    "linear",
    "markov-chains",
    "polynomial",
    "pool",
    "quadratic",
    "random-features",
    "relu-network",
    "representation",
    "sparse-linear",
    "spherical-cap",
    "trigonometric",
    "words",
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def without_noise(name):
    options = NOISE_OPTIONS & set(inspect.signature(TASKS[name]).parameters) if name != "pool" else ()
    return build_task(name, **dict.fromkeys(options, 0.0))


def same(one, other):
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.labels, other.labels)
    assert one.function.keys() == other.function.keys()
    assert all(torch.equal(one.function[key], other.function[key]) for key in one.function)


def test_the_tasks_of_the_lab_are_registered():
    assert set(OURS) <= set(TASKS)


@pytest.mark.parametrize("name", list(TASKS))
def test_equal_generators_give_equal_prompts_and_other_seeds_other_ones(name):
    task = build_task(name)
    same(task.sample(seeded(1), 3, 5), build_task(name).sample(seeded(1), 3, 5))
    assert not torch.equal(task.sample(seeded(1), 3, 5).labels, task.sample(seeded(2), 3, 5).labels)


@pytest.mark.parametrize("name", list(TASKS))
def test_sampling_draws_from_its_generator_only(name):
    task = build_task(name)
    before = torch.get_rng_state()
    task.sample(seeded(), 2, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", OURS)
def test_leading_axes_are_free(name, shape):
    task = build_task(name)
    prompt = task.sample(seeded(), shape, 6)
    assert prompt.inputs.shape == (*shape, 7, task.d)
    assert prompt.labels.shape == (*shape, 7, task.d_y)
    assert all(entry.shape[: len(shape)] == shape for entry in prompt.function.values())
    alone = task.sample_inputs(seeded(), shape, 3)
    assert alone.shape == (*shape, 3, task.d)


@pytest.mark.parametrize("name", list(TASKS))
def test_a_prompt_without_demonstrations_is_a_query(name):
    prompt = build_task(name).sample(seeded(), 2, 0)
    assert prompt.n_context == 0
    assert prompt.query.shape == (2, build_task(name).d)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", list(TASKS))
def test_prompts_have_the_default_dtype_even_if_the_task_is_older(name, dtype):
    task = build_task(name)
    torch.set_default_dtype(dtype)
    prompt = task.sample(seeded(), 2, 3)
    floating = [entry for entry in prompt.function.values() if entry.is_floating_point()]
    assert {tensor.dtype for tensor in (prompt.inputs, prompt.labels, *floating)} == {dtype}


@pytest.mark.parametrize("name", list(TASKS))
def test_the_function_of_a_prompt_gives_its_labels_back(name):
    task = without_noise(name)
    prompt = task.sample(seeded(), 50, 30)
    residual = prompt.labels - task.values(prompt.inputs, prompt.function)
    if name == "pool":
        assert residual.std() == pytest.approx(task.noise_std, rel=0.1)
    elif name == "markov-chains":  # its values are probabilities, from which labels are drawn
        assert residual.mean((0, 1)).abs().max() < 0.05
    else:
        assert torch.allclose(residual, torch.zeros(()))


@pytest.mark.parametrize("name", [name for name in OURS if hasattr(TASKS[name], "linear_in")])
def test_values_are_linear_in_the_entry_that_says_so(name):
    task = build_task(name)
    prompt = task.sample(seeded(), 4, 5)
    first, second = prompt.function, task.sample_function(seeded(9), (4,))
    key = task.linear_in
    mixed = task.values(prompt.inputs, {**first, key: 2 * first[key] - 3 * second[key]})
    parts = [task.values(prompt.inputs, {**first, key: entry[key]}) for entry in (first, second)]
    assert torch.allclose(mixed, 2 * parts[0] - 3 * parts[1])


@pytest.mark.parametrize("name", [name for name in OURS if "noise_std" in inspect.signature(TASKS[name]).parameters])
def test_noise_changes_labels_alone_and_has_its_size(name):
    calm, noisy = without_noise(name), build_task(name, noise_std=0.3)
    one, other = calm.sample(seeded(), 400, 10), noisy.sample(seeded(), 400, 10)
    assert torch.equal(one.inputs, other.inputs)
    noise = other.labels - noisy.values(other.inputs, other.function)
    assert noise.std() == pytest.approx(0.3, rel=0.05)
    assert noise.mean().abs() < 0.02
    # Noise of different points is independent.
    assert (noise[:, :-1] * noise[:, 1:]).mean().abs() < 0.01


@pytest.mark.parametrize("name", list(TASKS))
def test_options_are_keywords_with_plain_values_kept_as_attributes(name):
    task = build_task(name)
    for option, parameter in inspect.signature(TASKS[name]).parameters.items():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert isinstance(parameter.default, int | float | str | bool)
        assert getattr(task, option) == parameter.default


@pytest.mark.parametrize("name", list(TASKS))
def test_the_optimum_is_an_estimator_that_answers(name):
    task = build_task(name)
    optimal = task.optimal()
    assert isinstance(optimal, Optimal)
    assert optimal.estimator in ESTIMATORS
    prompt = task.sample(seeded(), 2, 3)
    answers = build_estimator(optimal.estimator, optimal.options).prefixes(prompt.inputs, prompt.labels)
    assert answers.shape == prompt.labels.shape
    assert answers.isfinite().all()


@pytest.mark.parametrize("name", [name for name in OURS if name not in {"decision-tree", "relu-network", "words"}])
def test_the_optimum_beats_the_mean_label(name):
    task = build_task(name)
    optimal = task.optimal()
    prompt = task.sample(seeded(), 60, 20)
    # The Lasso solves prefix by prefix; the last one is enough to compare.
    estimator = build_estimator(optimal.estimator, optimal.options)
    error = (estimator.predict(prompt) - prompt.target).square().mean()
    mean = (prompt.ys.mean(-2) - prompt.target).square().mean()
    assert error < 0.9 * mean


BAD = [
    ("linear", {"d": 0}, "d=0"),
    ("linear", {"d_y": 0}, "d_y=0"),
    ("linear", {"noise_std": -1.0}, "noise_std=-1.0"),
    ("linear", {"noise_std": float("nan")}, "noise_std=nan"),
    ("linear", {"weight_std": 0.0}, "weight_std=0.0"),
    ("linear", {"weight_std": float("inf")}, "weight_std=inf"),
    ("linear", {"inputs": "unifrom"}, "Did you mean 'uniform'"),
    ("linear", {"input_scale": -1.0}, "input_scale=-1.0"),
    ("linear", {"noise": 1.0}, "Did you mean 'noise_std'"),
    ("sparse-linear", {"n_nonzero": 21}, "n_nonzero=21 is more than the d=20"),
    ("sparse-linear", {"n_nonzero": 0}, "n_nonzero=0"),
    ("anisotropic", {"decay": -1.0}, "decay=-1.0"),
    ("anisotropic", {"decay": 10.0}, "1e12"),
    ("anisotropic", {"spectrum": "powr"}, "Did you mean 'power'"),
    ("anisotropic", {"weights": "white"}, "unknown weights 'white'"),
    ("relu-network", {"hidden": 0}, "hidden=0"),
    ("decision-tree", {"depth": 0}, "depth=0"),
    ("decision-tree", {"depth": 40}, "depth=40"),
    ("trigonometric", {"n_frequencies": 0}, "n_frequencies=0"),
    ("trigonometric", {"frequency": 0.0}, "frequency=0.0"),
    ("exponential", {"rate": 0.0}, "rate=0.0"),
    ("polynomial", {"degree": 0}, "degree=0"),
    ("polynomial", {"d": 40, "degree": 6, "cross_terms": True}, "monomials"),
    ("random-features", {"n_features": 0}, "n_features=0"),
    ("random-features", {"activation": "tanh"}, "unknown activation 'tanh'"),
    ("representation", {"n_layers": 0}, "n_layers=0"),
    ("representation", {"slope": -0.1}, "slope=-0.1"),
    ("pool", {"n_tasks": 0}, "n_tasks=0"),
    ("pool", {"noise_std": 0.0}, "noise_std=0.0"),
    ("clusters", {"n_classes": 1}, "n_classes=1"),
    ("clusters", {"n_clusters": 2}, "n_clusters=2"),
    ("clusters", {"cluster_std": -1.0}, "cluster_std=-1.0"),
    ("digits", {"n_classes": 11}, "n_classes=11"),
    ("digits", {"split": "heldout"}, "Did you mean 'held-out'"),
    ("digits", {"held_out": 1.0}, "held_out=1.0"),
    ("digits", {"held_out": 0.001, "split": "held-out"}, "without images"),
    ("markov-chains", {"n_states": 1}, "n_states=1"),
    ("markov-chains", {"n_chains": -1}, "n_chains=-1"),
    ("markov-chains", {"concentration": 0.0}, "concentration=0.0"),
    ("words", {"fewest_categories": 0}, "fewest_categories=0"),
    ("words", {"n_labels": 1}, "n_labels=1"),
]


@pytest.mark.parametrize(("name", "options", "said"), BAD, ids=lambda part: str(part))
def test_impossible_options_are_answered(name, options, said):
    with pytest.raises(UserError) as error:
        build_task(name, **options)
    assert said in str(error.value)


@pytest.mark.parametrize("name", OURS)
def test_impossible_sizes_of_a_batch_are_answered(name):
    task = build_task(name)
    with pytest.raises(UserError, match="n_context"):
        task.sample(seeded(), 2, -1)
    with pytest.raises(UserError, match="batch"):
        task.sample(seeded(), 0, 3)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(OURS), st.integers(0, 10_000), st.integers(1, 5), st.integers(0, 9))
def test_every_number_is_finite(name, seed, batch, n_context):
    prompt = build_task(name).sample(seeded(seed), batch, n_context)
    assert prompt.inputs.isfinite().all()
    assert prompt.labels.isfinite().all()


def test_a_task_of_ones_own_is_one_class():
    class Sum(Task):
        d = 3

        def sample_inputs(self, generator, batch, n_points):
            return torch.randn(*batch, n_points, self.d, generator=generator)

        def sample_function(self, generator, batch):
            return {"weight": torch.ones(*batch, self.d, 1)}

        def values(self, inputs, function):
            return inputs @ function["weight"]

        def optimal(self):
            return Optimal("least-squares")

    prompt = Sum().sample(seeded(), (2, 2), 4)
    assert torch.allclose(prompt.labels[..., 0], prompt.inputs.sum(-1))
