"""Errors of the papers' baselines and closed forms, on the papers' tasks, within sampling error."""

from __future__ import annotations

import math

import pytest
import torch

from iclens.estimators.estimator import build_estimator
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.task import build_task


def drawn(name, batch, n_context, seed=0, **options):
    task = build_task(name, **options)
    return task, task.sample(torch.Generator().manual_seed(seed), batch, n_context)


def errors(name, options, prompt):
    """Squared error at every prefix, (prompts, n_points)."""
    answers = build_estimator(name, options).prefixes(prompt.inputs, prompt.labels)
    return (answers - prompt.labels).square().sum(-1)


def last_errors(name, options, prompt, targets=None):
    """Squared error at the query, (prompts,)."""
    targets = prompt.target if targets is None else targets
    return (build_estimator(name, options).predict(prompt) - targets).square().sum(-1)


def standard_error(samples):
    return float(samples.std()) / math.sqrt(len(samples))


def assert_mean(samples, expected, sigmas=4.0):
    mean = float(samples.mean())
    assert abs(mean - expected) < sigmas * standard_error(samples), (mean, expected, standard_error(samples))


def test_garg_linear_least_squares_and_averaging():
    """x, w ~ N(0, I), d = 20: least squares misses the part of w outside the span, averaging has error (d + 1)/k."""
    _, prompt = drawn("linear", 2000, 40)
    least_squares, averaging = (errors(name, {}, prompt) / 20 for name in ("least-squares", "averaging"))
    for k in (5, 10, 19):
        assert_mean(least_squares[:, k], 1 - k / 20)
    assert least_squares[:, 20:].max() < 1e-8
    for k in (5, 20, 40):
        assert_mean(averaging[:, k], 21 / k)
    # No use in 20 dimensions: three neighbours never come near.
    neighbours = errors("nearest-neighbours", {}, prompt)[:, 1:].mean(0) / 20
    assert (neighbours > 0.5).all()


def test_garg_sparse_lasso():
    """Errors/3 of the Lasso .62 at k = 5 and .08 at k = 10, of the best of the five strengths 1 … 1e-4."""
    _, prompt = drawn("sparse-linear", 800, 10)
    curves = {alpha: errors("lasso", {"alpha": alpha}, prompt) / 3 for alpha in (0.1, 0.01)}
    assert_mean(curves[0.1][:, 5], 0.62, sigmas=3)
    low, high = curves[0.01][:, 10], curves[0.1][:, 10]
    assert low.mean() - 3 * standard_error(low) < 0.08 < high.mean() + 3 * standard_error(high)
    least_squares = errors("least-squares", {}, prompt) / 3
    assert least_squares[:, 10].mean() > 3 * high.mean()


def test_garg_noisy_linear_has_its_peak_where_points_equal_columns():
    _, prompt = drawn("linear", 1000, 40, noise_std=1.0)
    curve = errors("least-squares", {}, prompt).median(0).values
    assert curve[19:22].amax() > 2 * curve[8]
    assert curve[19:22].amax() > 4 * curve[40]


@pytest.mark.slow
def test_garg_trees_with_100_points():
    """Greedy tree .80, XGBoost .62; scikit-learn's boosting is another implementation, near it."""
    _, prompt = drawn("decision-tree", 400, 100)
    assert_mean(last_errors("decision-tree", {}, prompt), 0.80, sigmas=3)
    few = PromptBatch(prompt.inputs[:150], prompt.labels[:150])
    boosted = last_errors("gradient-boosting", {}, few)
    assert_mean(boosted, 0.62, sigmas=3)


@pytest.mark.slow
def test_garg_two_layer_network_with_100_points():
    """Error/d of the baseline trained by Adam: .17."""
    _, prompt = drawn("relu-network", 300, 100)
    assert_mean(last_errors("two-layer-network", {}, prompt) / 20, 0.17, sigmas=3)


@pytest.mark.parametrize(("scale", "rate", "risk"), [(1.0, 1.515, 1.6498), (0.5, 6.061, 0.4125)])
def test_von_oswald_one_step_with_as_many_points_as_columns(scale, rate, risk):
    _, prompt = drawn("linear", 20_000, 10, d=10, inputs="uniform", input_scale=scale)
    assert_mean(last_errors("gradient-descent", {"learning_rate": rate}, prompt), risk)
    # The answer is linear in the rate, so the best one is a projection.
    unit = build_estimator("gradient-descent").predict(prompt)
    best = float((unit * prompt.target).sum() / unit.square().sum())
    assert best == pytest.approx(rate, rel=0.03)


@pytest.mark.parametrize(
    ("n", "d", "noise", "rate", "risk", "ridge"),
    [
        (20, 5, 0.0, 0.03846, 1.154, None),
        (40, 5, 0.1, 0.02169, 0.6616, 0.0146),
        (20, 20, 0.0, 0.02439, 10.244, None),
        (40, 20, 1.0, 0.01613, 7.097, 0.948),
    ],
)
def test_mahankali_one_step_and_ridge(n, d, noise, rate, risk, ridge):
    task, prompt = drawn("linear", 4000, n, d=d, noise_std=noise**0.5)
    assert rate == pytest.approx(1 / (n + d + 1 + noise), abs=5e-6)
    assert risk == pytest.approx(d * (d + 1 + noise) / (n + d + 1 + noise), abs=1e-3)
    clean = task.values(prompt.inputs, prompt.function)[..., -1, :]
    assert_mean(last_errors("gradient-descent", {"learning_rate": rate, "reduction": "sum"}, prompt, clean), risk)
    if ridge is not None:
        assert_mean(last_errors("ridge", {"alpha": noise}, prompt, clean), ridge)


@pytest.mark.parametrize(("n", "d"), [(20, 5), (6, 10)])
def test_ahn_the_best_preconditioner(n, d):
    """A = ((n+1)/n Σ + (tr Σ/n) I)⁻¹, with risk d(d+1)/(n+d+1) when Σ = I."""
    _, prompt = drawn("linear", 10_000, n, d=d)
    best = n / (n + d + 1) * torch.eye(d)
    assert_mean(last_errors("gradient-descent", {"preconditioner": best}, prompt), d * (d + 1) / (n + d + 1))

    task, prompt = drawn("anisotropic", 10_000, n, d=d)
    covariance = task.covariance
    best = torch.linalg.inv((n + 1) / n * covariance + covariance.trace() / n * torch.eye(d))
    error = last_errors("gradient-descent", {"preconditioner": best}, prompt)
    for other in (1.3 * best, 0.7 * best, 1.2 * best + 0.2 * torch.eye(d), n / (n + d + 1) * torch.eye(d)):
        more = last_errors("gradient-descent", {"preconditioner": other}, prompt) - error
        assert more.mean() > 2 * standard_error(more)


def test_he_et_al_bayes_and_debiased_gradient_descent():
    """d = 5, L = 40, σ² = .1, β ~ N(0, I/d): .1146, .2387 and .2417, each itself a mean over some thousand prompts.

    In closed form the two steps have σ² + (d+1+dσ²)/(m+d+1+dσ²) with m = L, and m = L − 1 for centred keys.
    """
    _, prompt = drawn("linear", 30_000, 40, d=5, weight_std=5**-0.5, noise_std=0.1**0.5)
    bayes = last_errors("ridge", {"alpha": 0.5}, prompt)
    assert_mean(bayes, 0.1146)
    for debiased, m, published in ((False, 40, 0.2387), (True, 39, 0.2417)):
        options = {"learning_rate": 40 / (m + 6.5), "debiased": debiased}
        error = last_errors("gradient-descent", options, prompt)
        exact = 0.1 + 6.5 / (m + 6.5)
        assert_mean(error, exact)
        assert published == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize(("noise_std", "weight_std"), [(1.0, 1.0), (0.5, 1.5), (1.0, 0.4)])
def test_akyurek_the_best_ridge_has_the_ratio_of_the_variances(noise_std, weight_std):
    _, prompt = drawn("linear", 2000, 24, d=8, noise_std=noise_std, weight_std=weight_std)
    factors = torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0])
    alphas = (factors * (noise_std / weight_std) ** 2)[:, None]
    x, y = (tensor.expand(5, *tensor.shape) for tensor in (prompt.inputs, prompt.labels))
    answers = build_estimator("ridge", {"alpha": alphas}).prefixes(x, y)
    curves = (answers - y).square().sum(-1)[..., 2:].mean((1, 2))
    assert curves.argmin() == 2
