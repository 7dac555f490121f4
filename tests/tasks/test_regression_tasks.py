"""What the functions of the regression tasks are: moments, closed forms, and the numbers of papers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.errors import UserError
from iclens.estimators.estimator import build_estimator
from iclens.tasks.task import build_task

GARG = ["linear", "sparse-linear", "quadratic", "relu-network", "decision-tree"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def error_of(estimator, options, prompt):
    return (build_estimator(estimator, options).predict(prompt) - prompt.target).square().sum(-1)


def assert_mean(samples, expected, sigmas=5.0):
    """The mean of independent samples is as expected, within so many standard errors."""
    spread = samples.std() / math.sqrt(len(samples))
    assert abs(float(samples.mean()) - expected) < sigmas * float(spread), (float(samples.mean()), expected)


@pytest.mark.parametrize("name", GARG)
def test_inputs_and_labels_have_the_variances_of_garg_et_al(name):
    prompt = build_task(name).sample(seeded(), 20_000, 0)
    assert_mean(prompt.query.square().sum(-1), 20.0)
    expected = {"sparse-linear": 3.0, "decision-tree": 1.0}.get(name, 20.0)
    assert_mean(prompt.target[:, 0].square(), expected)
    assert_mean(prompt.target[:, 0], 0.0)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("linear", {"d": 6, "weight_std": 0.5}, 6 * 0.25),
        ("linear", {"d": 6, "inputs": "uniform", "input_scale": 0.5}, 6 / 12),
        ("linear", {"d": 6, "input_scale": 2.0, "noise_std": 1.5}, 24 + 2.25),
        ("anisotropic", {"d": 6, "decay": 2.0}, 6),
        ("anisotropic", {"d": 6, "decay": 0.7, "spectrum": "exponential", "weights": "whitened"}, 6),
        ("trigonometric", {"d": 4, "n_frequencies": 3, "cosines": True, "inputs": "normal"}, 12),
        ("exponential", {"d": 4, "rate": -2.0}, math.sinh(4)),
        ("polynomial", {"d": 3, "degree": 2}, 1 + 3 * (1 / 3 + 1 / 5)),
        ("polynomial", {"d": 2, "degree": 2, "cross_terms": True}, 1 + 2 * (1 / 3 + 1 / 5) + 1 / 9),
        ("representation", {"noise_std": 0.5, "weight_std": 2.0}, 4.25),
        ("random-features", {"n_features": 4000, "d": 3}, 1),
        ("random-features", {"n_features": 4000, "d": 3, "activation": "relu"}, 3),
        ("pool", {"d": 5, "n_tasks": 4000}, 5.25),
        ("relu-network", {"d": 3, "hidden": 7}, 3),
    ],
    ids=str,
)
def test_labels_have_the_variance_of_the_formula(name, options, expected):
    task = build_task(name, **options)
    # A fixed draw of random features, or of a pool, has its own variance near the expected one.
    rough = name in {"random-features", "pool"}
    labels = task.sample(seeded(), 2000 if rough else 20_000, 0).target[:, 0]
    if rough:
        assert labels.square().mean() == pytest.approx(expected, rel=0.15)
    else:
        assert_mean(labels.square(), expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 9), st.data())
def test_sparse_weights_have_exactly_so_many_entries(seed, d, data):
    n_nonzero = data.draw(st.integers(1, d))
    task = build_task("sparse-linear", d=d, n_nonzero=n_nonzero, d_y=2)
    weight = task.sample_function(seeded(seed), (3, 2))["weight"]
    assert weight.shape == (3, 2, d, 2)
    assert ((weight != 0).sum(-2) == n_nonzero).all()


def test_every_weight_is_as_often_nonzero():
    weight = build_task("sparse-linear").sample_function(seeded(), (20_000,))["weight"]
    share = (weight[..., 0] != 0).double().mean(0)
    assert torch.allclose(share, torch.full_like(share, 3 / 20), atol=0.015)


def test_a_full_support_is_the_linear_task_and_has_its_optimum():
    task = build_task("sparse-linear", n_nonzero=20, noise_std=0.5)
    assert task.optimal() == build_task("linear", noise_std=0.5).optimal()
    assert not build_task("sparse-linear").optimal().exact


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 6))
def test_a_tree_is_walked_from_the_root(seed, depth, d):
    task = build_task("decision-tree", d=d, depth=depth, d_y=2)
    prompt = task.sample(seeded(seed), 2, 4)
    for b in range(2):
        coordinates, leaves = prompt.function["coordinates"][b], prompt.function["leaves"][b]
        for x, y in zip(prompt.inputs[b], prompt.labels[b], strict=True):
            node = 0
            while node < len(coordinates):
                node = 2 * node + (2 if x[coordinates[node]] > 0 else 1)
            assert torch.equal(y, leaves[node - len(coordinates)])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000))
def test_a_tree_depends_on_signs_alone(seed):
    task = build_task("decision-tree")
    prompt = task.sample(seeded(seed), 3, 10)
    stretched = prompt.inputs.sign() * torch.rand(prompt.inputs.shape, generator=seeded(seed + 1)).add(0.01)
    assert torch.equal(task.values(stretched, prompt.function), prompt.labels)
    assert not torch.equal(task.values(-stretched, prompt.function), prompt.labels)


def test_a_relu_network_is_positively_homogeneous_and_no_more():
    task = build_task("relu-network")
    prompt = task.sample(seeded(), 3, 5)
    assert torch.allclose(task.values(2.5 * prompt.inputs, prompt.function), 2.5 * prompt.labels)
    assert not torch.allclose(task.values(-prompt.inputs, prompt.function), -prompt.labels)
    hidden, output = prompt.function["hidden_weight"], prompt.function["output_weight"]
    by_hand = sum(
        output[:, r] * (prompt.inputs @ hidden[:, r, :, None]).clamp_min(0)[..., 0] for r in range(task.hidden)
    ) * math.sqrt(2 / 100)
    assert torch.allclose(prompt.labels[..., 0], by_hand)


def test_features_are_what_their_formulas_say():
    x = torch.tensor([[0.5, -2.0]])
    assert torch.allclose(build_task("quadratic", d=2).features(x), x**2 / 3**0.5)
    waves = build_task("trigonometric", d=2, n_frequencies=2, frequency=3.0, cosines=True).features(x)
    angles = torch.tensor([[1.5, -6.0, 3.0, -12.0]])
    assert torch.allclose(waves, torch.cat([angles.sin(), angles.cos()], -1))
    assert torch.allclose(build_task("exponential", d=2, rate=-0.5).features(x), (-x / 2).exp())
    powers = build_task("polynomial", d=2, degree=3).features(x)
    assert torch.allclose(powers, torch.tensor([[1, 0.5, 0.25, 0.125, -2, 4, -8]]))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 4))
def test_cross_terms_are_those_of_scikit_learn(d, degree):
    from sklearn.preprocessing import PolynomialFeatures

    task = build_task("polynomial", d=d, degree=degree, cross_terms=True)
    x = torch.randn(5, d)
    ours, theirs = task.features(x), torch.from_numpy(PolynomialFeatures(degree).fit_transform(x.numpy()))
    assert ours.shape[-1] == task.n_features
    assert torch.allclose(ours.sort(-1).values, theirs.sort(-1).values)


def test_many_random_cosines_have_the_gaussian_kernel():
    task = build_task("random-features", d=3, n_features=200_000, length_scale=1.5)
    x = torch.randn(6, 3)
    phi = task.features(x)
    assert torch.allclose(phi @ phi.mT, (-torch.cdist(x, x).square() / (2 * 1.5**2)).exp(), atol=0.02)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 6), st.sampled_from([0.0, 0.01, 0.5, 1.0]))
def test_a_representation_has_norm_1_and_forgets_lengths(n_layers, d, slope):
    task = build_task("representation", d=d, n_features=30, n_layers=n_layers, slope=slope)
    x = torch.randn(4, d)
    phi = task.features(x)
    assert torch.allclose(phi.norm(dim=-1), torch.ones(4))
    assert torch.allclose(task.features(7 * x), phi)
    assert torch.allclose(task.features(-x), -phi) == (slope == 1.0)


@pytest.mark.parametrize("name", ["random-features", "representation", "anisotropic"])
def test_what_is_fixed_depends_on_the_seed_alone(name):
    x = torch.randn(3, build_task(name).d)
    options = {"weights": "whitened"} if name == "anisotropic" else {}
    one, same, other = (build_task(name, seed=seed, **options).features(x) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_pools_of_one_seed_are_nested_and_their_members_are_drawn():
    sizes = (1, 2, 15, 16, 17, 40, 300)
    pools = [build_task("pool", n_tasks=n, d=3).weights for n in sizes]
    assert all(torch.equal(pools[-1][: len(pool)], pool) for pool in pools)
    assert not torch.equal(build_task("pool", seed=1).weights, build_task("pool").weights)
    task = build_task("pool", n_tasks=5, d=3, weight_std=2.0)
    function = task.sample_function(seeded(), (2000,))
    assert torch.equal(function["weight"][..., 0], task.weights[function["index"]])
    shares = function["index"].bincount(minlength=5) / 2000
    assert torch.allclose(shares, torch.full((5,), 0.2), atol=0.05)


def test_inputs_have_the_covariance_and_whitened_features_none():
    task = build_task("anisotropic", d=4, decay=1.0, weights="whitened")
    assert torch.allclose(task.covariance.trace(), torch.tensor(4.0))
    eigenvalues = torch.linalg.eigvalsh(task.covariance).flip(0)
    assert torch.allclose(eigenvalues[0] / eigenvalues, torch.arange(1.0, 5))
    x = task.sample_inputs(seeded(), (), 200_000)
    assert torch.allclose(x.mT @ x / len(x), task.covariance, atol=0.03)
    phi = task.features(x)
    assert torch.allclose(phi.mT @ phi / len(x), torch.eye(4), atol=0.03)
    straight = build_task("anisotropic", d=4, rotated=False).covariance
    assert torch.equal(straight, straight.diag().diag())


@pytest.mark.parametrize(
    ("n", "d", "noise", "risk", "rate"),
    [
        (20, 5, 0, 1.154, 0.03846),
        (40, 5, 0.1, 0.6616, 0.02169),
        (20, 20, 0, 10.244, 0.02439),
        (40, 20, 1, 7.097, 0.01613),
    ],
)
def test_with_equal_eigenvalues_the_best_step_is_that_of_mahankali_et_al(n, d, noise, risk, rate):
    task = build_task("anisotropic", d=d, decay=0.0, noise_std=noise**0.5)
    assert task.one_step_risk(n) == pytest.approx(risk, abs=5e-4)
    assert torch.allclose(task.preconditioner(n) / n, rate * torch.eye(d), atol=5e-6)


@pytest.mark.parametrize("weights", ["isotropic", "whitened"])
def test_the_preconditioner_is_stationary_and_its_risk_the_measured_one(weights):
    n, batch = 6, 40_000
    task = build_task("anisotropic", d=3, decay=1.5, weights=weights, noise_std=0.7, weight_std=1.3)
    prompt = task.sample(seeded(), batch, n)
    clean = task.values(prompt.inputs, prompt.function)[:, -1]
    moment = (prompt.xs * prompt.ys).mean(-2)
    preconditioner = task.preconditioner(n).requires_grad_()
    excess = (prompt.query @ preconditioner * moment).sum(-1) - clean[:, 0]
    assert_mean(excess.detach().square(), task.one_step_risk(n))
    (slope,) = torch.autograd.grad(excess.square().mean(), preconditioner)
    start = torch.zeros(3, 3, requires_grad=True)
    at_zero = ((prompt.query @ start * moment).sum(-1) - clean[:, 0]).square().mean()
    assert slope.norm() < 0.05 * torch.autograd.grad(at_zero, start)[0].norm()
    with pytest.raises(UserError, match="n_context=0"):
        task.preconditioner(0)


def test_one_gradient_step_on_uniform_inputs_has_the_errors_of_von_oswald_et_al():
    for scale, rate, expected in ((1.0, 1.515, 1.6498), (0.5, 6.061, 0.4125)):
        prompt = build_task("linear", d=10, inputs="uniform", input_scale=scale).sample(seeded(), 30_000, 10)
        answer = rate * ((prompt.xs @ prompt.query[..., None]) * prompt.ys).mean(-2)
        assert_mean((answer - prompt.target)[:, 0].square(), expected)


def test_he_et_al_s_bayes_error_is_met():
    task = build_task("linear", d=5, weight_std=5**-0.5, noise_std=0.1**0.5)
    prompt = task.sample(seeded(), 8000, 40)
    optimal = task.optimal()
    assert optimal.options["alpha"] == pytest.approx(0.5)
    assert_mean(error_of(optimal.estimator, optimal.options, prompt), 0.1146)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linear", {"d": 5, "noise_std": 1.0, "weight_std": 0.7}),
        ("anisotropic", {"d": 5, "noise_std": 0.5, "decay": 2.0, "weights": "whitened"}),
        ("quadratic", {"d": 5, "noise_std": 1.0}),
        ("representation", {"noise_std": 0.5}),
        ("random-features", {"noise_std": 0.5}),
    ],
    ids=str,
)
def test_the_bayes_strength_has_less_error_than_others_and_features_than_none(name, options):
    task = build_task(name, **options)
    prompt = task.sample(seeded(), 4000, 10)
    optimal = task.optimal()
    assert optimal.exact
    assert optimal.estimator == "ridge"
    best = error_of("ridge", optimal.options, prompt)
    for factor in (0.2, 5.0):
        other = error_of("ridge", {**optimal.options, "alpha": factor * optimal.options["alpha"]}, prompt)
        assert best.mean() < other.mean()
    if "features" in optimal.options:
        assert best.mean() < error_of("ridge", {"alpha": optimal.options["alpha"]}, prompt).mean()


@pytest.mark.parametrize("name", ["linear", "quadratic", "trigonometric", "exponential", "polynomial"])
def test_without_noise_the_optimum_is_exact_once_there_are_as_many_points_as_features(name):
    task = build_task(name, d=3)
    prompt = task.sample(seeded(), 50, task.n_features + 6)
    optimal = task.optimal()
    assert optimal.exact
    assert error_of(optimal.estimator, optimal.options, prompt).max() < 1e-8


def test_on_a_small_pool_dmmse_beats_ridge_and_on_fresh_weights_it_does_not():
    task, fresh = build_task("pool", n_tasks=8), build_task("linear", d=8, noise_std=0.5)
    pool, ridge = task.optimal(), fresh.optimal()
    drawn, other = task.sample(seeded(), 1000, 8), fresh.sample(seeded(), 1000, 8)
    assert error_of(pool.estimator, pool.options, drawn).mean() < 0.5 * error_of("ridge", ridge.options, drawn).mean()
    assert error_of(pool.estimator, pool.options, other).mean() > error_of("ridge", ridge.options, other).mean()


@pytest.mark.parametrize(("name", "options"), [("linear", {}), ("trigonometric", {}), ("exponential", {})], ids=str)
def test_ren_and_liu_s_synthetic_tasks_are_settings_of_ours(name, options):
    """x ~ U(-1, 1), w ~ N(0, I), one label, tokens [x; y] of width 11, 15 demonstrations."""
    task = build_task(name, d=10, inputs="uniform", **options)
    prompt = task.sample(seeded(), 500, 15)
    assert prompt.n_context == 15
    assert task.d + task.d_y == 11
    assert prompt.inputs.abs().max() <= 1
    weight = prompt.function["weight"]
    assert weight.shape == (500, 10, 1)
    applied = {"linear": lambda x: x, "trigonometric": torch.sin, "exponential": torch.exp}[name]
    assert torch.allclose(prompt.labels, applied(prompt.inputs) @ weight)
