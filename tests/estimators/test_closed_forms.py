"""What each estimator is, by formulas that do not share its code; and that the fast ways equal the plain ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.estimators.prompts_of import STRUCTURES, any_points, points

from iclens.dual.descent import one_step_head
from iclens.estimators.estimator import build_estimator

quickly = settings(deadline=None, max_examples=25)
close = torch.testing.assert_close

FAST = {
    "least-squares": ("least-squares", {}),
    "ridge, Cholesky": ("ridge", {"alpha": 0.5}),
    "ridge, QR": ("ridge", {"alpha": 1e-7}),
    "kernel-ridge": ("kernel-ridge", {"alpha": 0.1}),
    "kernel-ridge, softmax": ("kernel-ridge", {"alpha": 0.5, "kernel": "softmax"}),
    "nearest-neighbours": ("nearest-neighbours", {}),
    "nearest-neighbours, many": ("nearest-neighbours", {"n_neighbors": 9}),
    "nearest-neighbours, weighted": ("nearest-neighbours", {"n_neighbors": 4, "weights": "distance"}),
    "gradient-descent": ("gradient-descent", {"n_steps": 4, "learning_rate": 0.05}),
    "gradient-descent, debiased": (
        "gradient-descent",
        {"n_steps": 3, "learning_rate": [0.1, 0.05, 0.02], "debiased": True, "reduction": "sum"},
    ),
}


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (2, 5), (7, 6), (13, 3), (41, 20), (131, 7)])
def test_fast_equals_plain_with_gradients(name, n, d):
    estimator = build_estimator(*FAST[name])
    x, y = points(n, n, d, 2, (3,))
    x, y = x.requires_grad_(), y.requires_grad_()
    _, direction = points(n + 1, n, 1, 2, (3,))
    results = []
    for method in (estimator.prefixes, estimator.prefixes_naive):
        answers = method(x, y)
        # An answer that depends on nothing (without a point, or by rank alone) has no gradient.
        total = (answers * direction).sum() + 0 * (x.sum() + y.sum())
        results.append((answers.detach(), *torch.autograd.grad(total, (x, y))))
    for found, expected in zip(*results, strict=True):
        close(found, expected, rtol=1e-7, atol=1e-7 * (1 + float(expected.abs().max())))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_without_gradients_the_answers_are_the_same(structure):
    for name in ("least-squares", "ridge, Cholesky", "ridge, QR"):
        estimator = build_estimator(*FAST[name])
        x, y = points(1, 30, 6, 2, (3,), structure)
        with_gradients = estimator.prefixes(x.requires_grad_(), y).detach()
        close(estimator.prefixes(x.detach(), y), with_gradients, rtol=1e-9, atol=1e-9)


def test_prompts_of_different_rank_are_answered_in_one_batch():
    kinds = [points(seed, 20, 6, 1, (), structure) for seed, structure in enumerate(STRUCTURES)]
    x, y = (torch.stack(tensors).reshape(-1, 1, 20, tensors[0].shape[-1]) for tensors in zip(*kinds, strict=True))
    x[0, 0] = 0
    estimator = build_estimator("least-squares")
    close(estimator.prefixes(x, y), estimator.prefixes_naive(x, y), rtol=1e-9, atol=1e-9)
    assert (estimator.prefixes(x, y)[0] == 0).all()


@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-8, 1e-12])
def test_least_squares_after_a_point_that_is_almost_in_the_span_of_the_others(size):
    x, y = points(2, 41, 20, 1, (16,))
    x[:, 19] = x[:, :19].mean(1) + size * x[:, 19]
    estimator = build_estimator("least-squares")
    found, expected = estimator.prefixes(x, y), estimator.prefixes_naive(x, y)
    # The prefix that ends with this point has that condition: no method knows its answer better.
    steady = [i for i in range(41) if i not in (20,)]
    close(found[:, steady], expected[:, steady], rtol=1e-8, atol=1e-8 if size > 1e-4 else 1e-7)


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_the_scale_and_the_units_of_the_inputs_do_not_matter(shift):
    x, y = points(3, 25, 6, 1, (4,))
    x = x + shift
    expected = build_estimator("least-squares").prefixes(x, y)
    found = build_estimator("least-squares").prefixes(x * 1e-6, y)
    close(found, expected, rtol=1e-7, atol=1e-7)


@quickly
@given(any_points(structures=["generic"]))
def test_ridge_tends_to_least_squares(drawn):
    x, y = drawn
    expected = build_estimator("least-squares").prefixes(x, y)
    errors = [
        float((build_estimator("ridge", {"alpha": alpha}).prefixes(x, y) - expected).abs().max())
        for alpha in (1e-3, 1e-14)
    ]
    assert errors[1] <= 1e-6 * max(1.0, errors[0], float(expected.abs().max()) ** 2)


def test_ridge_with_a_prior_is_the_posterior_mean():
    d, n, alpha = 4, 9, 0.7
    x, y = points(4, n, d, 2)
    root, _ = points(5, d, d)
    prior = root @ root.mT
    found = build_estimator("ridge", {"alpha": alpha, "prior_covariance": prior}).prefixes(x, y)
    for i in range(1, n):
        weights = torch.linalg.solve(x[:i].mT @ x[:i] + alpha * prior.inverse(), x[:i].mT @ y[:i])
        close(found[i], x[i] @ weights, rtol=1e-9, atol=1e-9)
    variances = torch.tensor([2.0, 0.0, 1.0, 0.5])
    diagonal = build_estimator("ridge", {"alpha": alpha, "prior_covariance": variances}).prefixes(x, y)
    close(diagonal, build_estimator("ridge", {"alpha": alpha, "prior_covariance": variances.diag()}).prefixes(x, y))
    without = build_estimator("ridge", {"alpha": alpha, "prior_covariance": variances[[0, 2, 3]]})
    close(diagonal, without.prefixes(x[:, [0, 2, 3]], y))


def test_many_alphas_at_once():
    x, y = points(6, 9, 4, 1, (5,))
    alphas = torch.tensor([0.1, 1.0, 10.0])
    runs = build_estimator("ridge", {"alpha": alphas[:, None]}).prefixes(
        x.expand(3, -1, -1, -1), y.expand(3, -1, -1, -1)
    )
    for alpha, run in zip(alphas.tolist(), runs, strict=True):
        close(run, build_estimator("ridge", {"alpha": alpha}).prefixes(x, y))


@pytest.mark.parametrize("name", ["ridge", "least-squares", "lasso", "gradient-descent", "newton"])
def test_features_are_a_change_of_the_inputs(name):
    options = {"ridge": {"alpha": 0.3}, "lasso": {"alpha": 0.1}, "gradient-descent": {"learning_rate": 0.01}}.get(
        name, {}
    )
    x, y = points(7, 12, 3, 2, (2,))

    def features(x):
        return torch.cat([x, x.cos(), torch.ones_like(x[..., :1])], -1)

    with_map = build_estimator(name, {**options, "features": features}).prefixes(x, y)
    close(with_map, build_estimator(name, options).prefixes(features(x), y))


def test_ridge_is_kernel_ridge_with_the_linear_kernel():
    x, y = points(8, 15, 4, 2, (3,))
    ridge = build_estimator("ridge", {"alpha": 0.2}).prefixes(x, y)
    close(ridge, build_estimator("kernel-ridge", {"alpha": 0.2, "kernel": "linear"}).prefixes(x, y))


def test_the_softmax_kernel_is_that_of_attention():
    x, y = points(9, 6, 4, 1)
    found = build_estimator("kernel-ridge", {"alpha": 0.4, "kernel": "softmax"}).prefixes(x, y)
    gram = (x @ x.mT / 2).exp()
    for i in range(1, 6):
        expected = gram[i, :i] @ torch.linalg.solve(gram[:i, :i] + 0.4 * torch.eye(i), y[:i])
        close(found[i], expected, rtol=1e-10, atol=1e-10)


@quickly
@given(st.integers(0, 1000), st.integers(0, 4), st.sampled_from([0.0, 0.02]))
def test_gradient_descent_is_what_von_oswalds_heads_do(seed, n_steps, gamma):
    x, y = points(seed, 6, 3, 2)
    options = {"n_steps": n_steps, "learning_rate": 0.3, "plus_plus": gamma}
    found = build_estimator("gradient-descent", options).prefixes(x, y)
    for i in range(1, 6):
        head = one_step_head(x[:i], y[:i], torch.zeros(2, 3), 0.3, gamma=gamma)
        close(found[i], head.predict(x[i : i + 1], steps=n_steps)[0], rtol=1e-9, atol=1e-12)


def test_many_steps_of_gradient_descent_have_a_closed_form():
    x, y = points(10, 9, 4)
    rate, n_steps = 0.2, 50
    found = build_estimator("gradient-descent", {"n_steps": n_steps, "learning_rate": rate}).prefixes(x, y)
    for i in range(1, 9):
        values, vectors = torch.linalg.eigh(x[:i].mT @ x[:i] / i)
        learned = torch.where(values > 1e-12, (1 - (1 - rate * values) ** n_steps) / values, rate * n_steps)
        weights = vectors @ (learned[:, None] * (vectors.mT @ (x[:i].mT @ y[:i] / i)))
        close(found[i], x[i] @ weights, rtol=1e-9, atol=1e-11)


def test_a_preconditioner_that_inverts_the_covariance_solves_in_one_step():
    x, y = points(11, 9, 4, 2)
    inverse = torch.linalg.inv(x[:8].mT @ x[:8])
    step = build_estimator("gradient-descent", {"preconditioner": inverse, "reduction": "sum"}).prefixes(x, y)
    close(step[-1], build_estimator("least-squares").prefixes(x, y)[-1], rtol=1e-9, atol=1e-10)


def test_averaging_is_one_step_at_rate_one():
    x, y = points(12, 9, 4, 2, (2,))
    step = build_estimator("gradient-descent", {"n_steps": 1, "learning_rate": 1.0})
    close(build_estimator("averaging").prefixes(x, y), step.prefixes(x, y))


def test_debiased_gradient_descent_is_he_et_als_sum_and_no_shift_of_the_keys_changes_it():
    x, y = points(13, 8, 3)
    mu, omega = 0.7, 0.4
    options = {"learning_rate": 2 * mu * omega, "debiased": True}
    found = build_estimator("gradient-descent", options).prefixes(x, y)
    for i in range(1, 8):
        expected = 2 * mu * omega / i * sum(y[j] * ((x[j] - x[:i].mean(0)) @ x[i]) for j in range(i))
        close(found[i], expected, rtol=1e-10, atol=1e-12)
    shifted = torch.cat([x[:-1] + 5, x[-1:]])
    close(build_estimator("gradient-descent", options).prefixes(shifted, y)[-1], found[-1])


@pytest.mark.parametrize("n_steps", [0, 1, 7, 40])
def test_newton_inverts_each_eigenvalue_as_its_formula_says(n_steps):
    x, y = points(14, 9, 5, 2)
    found = build_estimator("newton", {"n_steps": n_steps, "scale": 0.8}).prefixes(x, y)
    for i in range(1, 9):
        values, vectors = torch.linalg.eigh(x[:i].mT @ x[:i])
        kept = values > 1e-10 * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        start = 0.8 * values.square() / values.square().sum()
        # 1 − (1 − a)^m without cancellation.
        inverted = -torch.expm1(2.0**n_steps * torch.log1p(-start)) / values
        weights = vectors @ (inverted[:, None] * (vectors.mT @ (x[:i].mT @ y[:i])))
        close(found[i], x[i] @ weights, rtol=1e-7, atol=1e-9)


def test_newton_ends_at_least_squares():
    x, y = points(15, 25, 6, 1, (3,))
    close(
        build_estimator("newton", {"n_steps": 40}).prefixes(x, y),
        build_estimator("least-squares").prefixes(x, y),
        rtol=1e-6,
        atol=1e-7,
    )


@pytest.mark.parametrize("joint", [False, True])
def test_finite_pool_is_the_sum_of_bayes_rule(joint):
    n, d, n_tasks, noise_std = 7, 3, 11, 0.4
    x, y = points(16, n, d, 2, (2,))
    pool = torch.randn(n_tasks, d, 2) if joint else torch.randn(n_tasks, d)
    estimator = build_estimator("finite-pool", {"pool": pool, "noise_std": noise_std})
    found = estimator.prefixes(x, y)
    for b in range(2):
        for i in range(1, n):
            for output in range(2):
                weights = pool[..., output] if joint else pool
                likelihood = torch.ones(n_tasks)
                for j in range(i):
                    for other in range(2) if joint else [output]:
                        of_other = pool[..., other] if joint else pool
                        misfit = y[b, j, other] - of_other @ x[b, j]
                        likelihood = likelihood * (-(misfit**2) / (2 * noise_std**2)).exp()
                expected = (likelihood / likelihood.sum()) @ (weights @ x[b, i])
                close(found[b, i, output], expected, rtol=1e-9, atol=1e-12)
    # Every task as often: the same posterior, from more predictions than are held at once.
    often = pool.repeat(2**22 // y.numel() // n_tasks + 2, *[1] * (pool.ndim - 1))
    assert len(often) * y.numel() > 2**22
    many = build_estimator("finite-pool", {"pool": often, "noise_std": noise_std}).prefixes(x, y)
    close(many, found, rtol=1e-9, atol=1e-12)


def test_a_pool_of_one_task_leaves_no_doubt_and_far_labels_no_nan():
    x, y = points(17, 6, 3)
    weight = torch.tensor([[1.0, -2.0, 0.5]])
    found = build_estimator("finite-pool", {"pool": weight, "noise_std": 1e-3}).prefixes(x, 1e6 * y)
    close(found[1:], x[1:] @ weight.mT)


def test_a_large_pool_of_gaussian_tasks_is_near_ridge():
    n, d, noise_std = 4, 2, 1.0
    x, y = points(18, n, d)
    pool = torch.randn(200_000, d, generator=torch.Generator().manual_seed(0))
    found = build_estimator("finite-pool", {"pool": pool, "noise_std": noise_std}).prefixes(x, y)
    close(found, build_estimator("ridge", {"alpha": noise_std**2}).prefixes(x, y), rtol=0, atol=0.02)
