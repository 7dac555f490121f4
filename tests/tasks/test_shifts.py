"""A shift changes one hook, in the way that it says, and does not claim more for its optimum than is true."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.errors import UserError
from iclens.estimators.estimator import build_estimator
from iclens.tasks.shifts import SHIFTS, Shift, shifted
from iclens.tasks.task import build_task

CHANGED = {
    "scale-inputs": "sample_inputs",
    "subspace": "sample_inputs",
    "orthants": "sample_inputs",
    "orthogonal-query": "sample_inputs",
    "repeated-query": "sample_inputs",
    "scale-function": "sample_function",
    "mean-shift": "sample_function",
    "label-noise": "observed",
}

SHIFTABLE = [
    "linear",
    "sparse-linear",
    "anisotropic",
    "quadratic",
    "relu-network",
    "decision-tree",
    "trigonometric",
    "exponential",
    "polynomial",
    "random-features",
    "representation",
    "pool",
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def error_of(optimal, prompt):
    return (build_estimator(optimal.estimator, optimal.options).predict(prompt) - prompt.target).square().mean()


def equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    return torch.equal(one, other)


def test_the_shifts_of_the_lab_are_registered():
    assert set(CHANGED) <= set(SHIFTS)


@pytest.mark.parametrize("task_name", SHIFTABLE)
@pytest.mark.parametrize("name", CHANGED)
def test_a_shift_changes_its_hook_and_leaves_the_others_alone(name, task_name):
    task = build_task(task_name)
    other = shifted(task, name)
    prompt = task.sample(seeded(5), (2, 3), 3)
    hooks = {
        "sample_inputs": lambda of: of.sample_inputs(seeded(), (2, 3), 4),
        "sample_function": lambda of: of.sample_function(seeded(), (2, 3)),
        "values": lambda of: of.values(prompt.inputs, prompt.function),
        "observed": lambda of: of.observed(seeded(), prompt.labels),
    }
    unchanged = {hook for hook, call in hooks.items() if equal(call(task), call(other))}
    assert unchanged == set(hooks) - {CHANGED[name]}
    drawn = other.sample(seeded(), (2, 3), 3)
    assert drawn.inputs.shape == (2, 3, 4, task.d)
    assert equal(other.sample(seeded(), (2, 3), 3).labels, drawn.labels)
    if name != "label-noise" and not getattr(task, "noise_std", 0):
        assert torch.allclose(task.values(drawn.inputs, drawn.function), drawn.labels)


@pytest.mark.parametrize("name", CHANGED)
def test_shifts_keep_the_dtype(name):
    task = shifted(build_task("linear"), name)
    torch.set_default_dtype(torch.float32)
    prompt = task.sample(seeded(), 2, 3)
    assert {prompt.inputs.dtype, prompt.labels.dtype, prompt.function["weight"].dtype} == {torch.float32}


def test_scales_are_those_of_garg_et_al():
    task = build_task("linear")
    assert torch.allclose(
        shifted(task, "scale-inputs").sample_inputs(seeded(), (2,), 3), task.sample_inputs(seeded(), (2,), 3) / 3
    )
    weight = task.sample_function(seeded(), (2,))["weight"]
    assert torch.allclose(shifted(task, "scale-function").sample_function(seeded(), (2,))["weight"], 3 * weight)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 6), st.data())
def test_inputs_of_a_prompt_lie_in_a_subspace(seed, d, data):
    k = data.draw(st.integers(0, d))
    inputs = shifted(build_task("linear", d=d), "subspace", n_dimensions=k).sample_inputs(seeded(seed), (3,), 9)
    ranks = torch.linalg.matrix_rank(inputs, rtol=1e-10)
    assert (ranks == (k or (d + 1) // 2)).all()


def test_subspaces_differ_between_prompts_and_keep_the_mean_square():
    inputs = shifted(build_task("linear", d=6), "subspace").sample_inputs(seeded(), (4000,), 5)
    assert torch.linalg.matrix_rank(inputs[:3].flatten(0, 1)) == 6
    assert inputs.square().sum(-1).mean() == pytest.approx(6, rel=0.03)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 6), st.sampled_from(["other", "opposite"]))
def test_demonstrations_share_an_orthant_that_is_not_the_query_s(seed, d, query):
    task = build_task("linear", d=d)
    inputs = shifted(task, "orthants", query=query).sample_inputs(seeded(seed), (20,), 5)
    signs = inputs.sign()
    assert (signs[:, :-1] == signs[:, :1]).all()
    agree = (signs[:, 0] == signs[:, -1]).sum(-1)
    assert (agree == 0).all() if query == "opposite" else (agree < d).all()
    assert torch.equal(inputs.abs(), task.sample_inputs(seeded(seed), (20,), 5).abs())


def test_every_orthant_but_one_is_as_likely_for_the_query():
    inputs = shifted(build_task("linear", d=6), "orthants").sample_inputs(seeded(), (20_000,), 2)
    code = ((inputs.sign() + 1) / 2 @ 2.0 ** torch.arange(6)).long()
    assert code[:, 0].bincount(minlength=64).min() > 200
    between = (inputs[:, 0].sign() * inputs[:, 1].sign()).mean(0)
    assert torch.allclose(between, torch.full((6,), -1 / 63), atol=0.03)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(2, 20), st.data())
def test_an_orthogonal_query_is_orthogonal_and_has_its_length(seed, d, data):
    n_context = data.draw(st.integers(0, d - 1))
    task = build_task("linear", d=d)
    prompt = shifted(task, "orthogonal-query").sample(seeded(seed), 4, n_context)
    assert (prompt.xs @ prompt.query[..., None]).abs().max() < 1e-10 if n_context else True
    plain = task.sample(seeded(seed), 4, n_context)
    assert torch.equal(plain.xs, prompt.xs)
    assert torch.allclose(prompt.query.norm(dim=-1), plain.query.norm(dim=-1))


def test_nothing_is_known_about_an_orthogonal_query():
    task = shifted(build_task("linear"), "orthogonal-query")
    prompt = task.sample(seeded(), 2000, 15)
    optimal = task.optimal()
    assert build_estimator(optimal.estimator, optimal.options).predict(prompt).abs().max() < 1e-6
    # The normalised error of Garg et al. 2022 is 1.
    assert error_of(optimal, prompt) / 20 == pytest.approx(1.0, rel=0.1)


def test_a_repeated_query_is_each_demonstration_as_often():
    task = shifted(build_task("linear", noise_std=0.5), "repeated-query")
    prompt = task.sample(seeded(), 3000, 4)
    same = (prompt.xs == prompt.query[:, None]).all(-1)
    assert (same.sum(-1) == 1).all()
    assert torch.allclose(same.double().mean(0), torch.full((4,), 0.25), atol=0.04)
    # The query's noise is its own.
    apart = prompt.target - (same.double()[..., None] * prompt.ys).sum(-2)
    assert apart.std() == pytest.approx(0.5 * 2**0.5, rel=0.05)


def test_the_mean_shift_is_that_of_yang_et_al():
    weight = shifted(build_task("linear"), "mean-shift").sample_function(seeded(), (5000,))["weight"]
    assert weight.mean() == pytest.approx(1.0, abs=0.03)
    assert weight.var() == pytest.approx(4.0, rel=0.03)


def test_label_noise_adds_to_that_of_the_task():
    task = build_task("linear", noise_std=0.6)
    prompt = shifted(task, "label-noise", noise_std=0.8).sample(seeded(), 2000, 9)
    assert (prompt.labels - task.values(prompt.inputs, prompt.function)).std() == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize(
    ("name", "options", "task_options", "exact"),
    [
        ("scale-inputs", {}, {"noise_std": 0.5}, True),
        ("subspace", {}, {"noise_std": 0.5}, True),
        ("orthants", {}, {"noise_std": 0.5}, True),
        ("repeated-query", {}, {"noise_std": 0.5}, True),
        ("label-noise", {}, {"noise_std": 0.5}, True),
        ("label-noise", {}, {}, True),
        ("scale-function", {}, {"noise_std": 0.5}, True),
        ("scale-function", {"factor": 0.1}, {"noise_std": 0.5}, True),
        ("mean-shift", {}, {"noise_std": 0.5}, False),
    ],
    ids=str,
)
def test_an_optimum_that_is_called_exact_cannot_be_bettered_and_the_other_one_can(name, options, task_options, exact):
    task = shifted(build_task("linear", d=5, **task_options), name, **options)
    optimal = task.optimal()
    assert optimal.exact is exact
    prompt = task.sample(seeded(), 20_000, 6)
    best = error_of(optimal, prompt)
    strength = optimal.options["alpha"]
    others = [build_estimator("ridge", {"alpha": factor * strength}) for factor in (0.2, 0.5, 2.0, 5.0)]
    errors = [(other.predict(prompt) - prompt.target).square().mean() for other in others]
    assert (best < min(errors)) == exact


def test_scaling_the_functions_scales_the_optimum_s_pool():
    task = build_task("pool", n_tasks=5)
    optimal = shifted(task, "scale-function", factor=2.0).optimal()
    assert optimal.exact
    assert torch.allclose(optimal.options["pool"], 2 * task.weights)
    assert torch.equal(task.optimal().options["pool"], task.weights)
    assert not shifted(task, "mean-shift").optimal().exact


def test_what_was_not_exact_does_not_become_so():
    for task_name in ("sparse-linear", "relu-network", "decision-tree"):
        task = build_task(task_name)
        assert not any(shifted(task, name).optimal().exact for name in CHANGED)


def test_shifts_pile_up_and_their_optimum_stays_honest():
    task = build_task("linear", d=4, noise_std=1.0)
    moved = shifted(shifted(task, "scale-inputs"), "label-noise", noise_std=2.0)
    assert moved.optimal().exact
    assert moved.optimal().options["alpha"] == pytest.approx(5.0)
    twice = shifted(shifted(task, "mean-shift"), "label-noise")
    assert not twice.optimal().exact
    assert not shifted(shifted(task, "mean-shift"), "scale-inputs").optimal().exact
    assert twice.sample(seeded(), 3, 2).labels.shape == (3, 3, 1)


def test_longer_prompts_need_no_shift():
    assert build_task("linear").sample(seeded(), 2, 300).n_context == 300


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("subspce", {}, "Did you mean 'subspace'"),
        ("scale-inputs", {"scale": 2.0}, "no option 'scale'"),
        ("scale-inputs", {"factor": 0.0}, "factor=0.0"),
        ("scale-function", {"factor": -1.0}, "factor=-1.0"),
        ("subspace", {"n_dimensions": 21}, "n_dimensions=21"),
        ("orthants", {"query": "oposite"}, "Did you mean 'opposite'"),
        ("label-noise", {"noise_std": -1.0}, "noise_std=-1.0"),
        ("mean-shift", {"mean": float("nan")}, "mean=nan"),
    ],
    ids=str,
)
def test_impossible_shifts_are_answered(name, options, said):
    with pytest.raises(UserError) as error:
        shifted(build_task("linear"), name, **options)
    assert said in str(error.value)


def test_prompts_that_a_shift_cannot_make_are_answered():
    task = build_task("linear", d=3)
    with pytest.raises(UserError, match="n_context=3 must be less than d=3"):
        shifted(task, "orthogonal-query").sample(seeded(), 2, 3)
    with pytest.raises(UserError, match="n_context=0"):
        shifted(task, "repeated-query").sample(seeded(), 2, 0)


@pytest.mark.parametrize("name", ["clusters", "digits", "words", "dictionary"])
def test_tasks_that_draw_inputs_and_functions_together_are_refused(name):
    with pytest.raises(UserError, match="draws inputs and functions together"):
        shifted(build_task(name), "scale-inputs")


def test_a_shift_that_finds_no_coefficients_says_what_to_set():
    class Renamed(type(build_task("linear"))):
        linear_in = "slope"

    with pytest.raises(UserError, match="'slope': set its attribute `linear_in`"):
        shifted(Renamed(), "mean-shift").sample(seeded(), 2, 3)


def test_a_bare_shift_is_the_task_itself():
    task = build_task("linear", noise_std=0.5)
    one, other = task.sample(seeded(), 2, 3), Shift(task).sample(seeded(), 2, 3)
    assert torch.equal(one.labels, other.labels)
