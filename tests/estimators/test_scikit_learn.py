"""Agreement with scikit-learn and LAPACK to 1e-8, prefix by prefix, on points of every shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.estimators.prompts_of import STRUCTURES, any_points, points, worst_condition

from iclens.estimators.estimator import build_estimator
from iclens.estimators.feature_sign import solve
from iclens.estimators.prefix_loop import by_prompt_and_prefix

quickly = settings(deadline=None, max_examples=25)


def compare(name, options, theirs, x, y, tolerance=1e-8):
    """Our answers against those of a scikit-learn regressor fitted to every prefix."""
    expected = by_prompt_and_prefix(lambda xs, ys, query: theirs.fit(xs, ys).predict(query)[0], x, y)
    found = build_estimator(name, options).prefixes(x, y)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@quickly
@given(any_points())
def test_least_squares(drawn):
    from sklearn.linear_model import LinearRegression

    x, y = drawn
    # At 1e5 the answers themselves are only known to some 1e-10, and those of both sides differ by more.
    assume(worst_condition(x) < 1e4)
    compare("least-squares", {}, LinearRegression(fit_intercept=False), x, y)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("n", [3, 7, 8, 9, 30])
def test_least_squares_around_as_many_points_as_columns(structure, n):
    x, y = points(n, n, 8, 2, (4,), structure)
    estimator = build_estimator("least-squares")
    expected = estimator.prefixes_naive(x, y)
    torch.testing.assert_close(estimator.prefixes(x, y), expected, rtol=1e-8, atol=1e-8)


@quickly
@given(any_points(), st.floats(-8, 3))
def test_ridge(drawn, log_alpha):
    from sklearn.linear_model import Ridge

    x, y = drawn
    alpha = 10**log_alpha
    # Directions below √α count as √α. (Their solver by singular values sets those below 1e-15 to zero.)
    assume(worst_condition(x) < 1e4)
    # Where two points are the same, rounding over α ≥ 1e-8 is all that their difference has.
    compare("ridge", {"alpha": alpha}, Ridge(alpha=alpha, fit_intercept=False, solver="svd"), x, y, tolerance=1e-6)


@quickly
@given(any_points(), st.floats(-3, 3), st.sampled_from(["linear", "polynomial", "rbf"]), st.floats(0.1, 2))
def test_kernel_ridge(drawn, log_alpha, kernel, gamma):
    from sklearn.kernel_ridge import KernelRidge

    x, y = drawn
    options = {"alpha": 10**log_alpha, "kernel": kernel, "gamma": gamma, "degree": 2, "coef0": 0.5}
    compare("kernel-ridge", options, KernelRidge(**options), x, y)


def test_kernel_ridge_takes_scikit_learns_defaults():
    from sklearn.kernel_ridge import KernelRidge

    x, y = points(0, 12, 3, 1, (2,))
    for kernel in ("linear", "polynomial", "rbf"):
        compare("kernel-ridge", {"kernel": kernel}, KernelRidge(kernel=kernel), x, y)


@quickly
@given(
    any_points(structures=[s for s in STRUCTURES if s not in ("repeated points", "zeros")]),
    st.integers(1, 12),
    st.sampled_from(["uniform", "distance"]),
)
def test_nearest_neighbours(drawn, n_neighbors, weights):
    from sklearn.neighbors import KNeighborsRegressor

    x, y = drawn

    def answer(xs, ys, query):
        neighbours = KNeighborsRegressor(min(n_neighbors, len(xs)), weights=weights, algorithm="brute")
        return neighbours.fit(xs, ys).predict(query)[0]

    # On a line two points may be almost equally far.
    assume(x.shape[-1] > 1)
    found = build_estimator("nearest-neighbours", {"n_neighbors": n_neighbors, "weights": weights}).prefixes(x, y)
    torch.testing.assert_close(found, by_prompt_and_prefix(answer, x, y), rtol=1e-8, atol=1e-8)


def test_the_nearest_of_repeated_points_are_the_earlier_ones():
    x = torch.tensor([[0.0], [1.0], [1.0], [1.0], [-3.0], [1.0]])
    y = torch.tensor([[10.0], [1.0], [2.0], [4.0], [20.0], [0.0]])
    for n_neighbors, expected in ((1, 1.0), (2, 1.5), (3, 7 / 3), (4, 17 / 4), (5, 37 / 5), (9, 37 / 5)):
        for build in ("prefixes", "prefixes_naive"):
            found = getattr(build_estimator("nearest-neighbours", {"n_neighbors": n_neighbors}), build)(x, y)
            assert found[-1, 0] == pytest.approx(expected, rel=1e-15)
    weighted = build_estimator("nearest-neighbours", {"n_neighbors": 4, "weights": "distance"}).prefixes(x, y)
    assert weighted[-1, 0] == pytest.approx(7 / 3, rel=1e-15)  # distance 0 takes all the weight


@settings(deadline=None, max_examples=15)
@given(any_points(structures=["generic", "zero column", "constant column", "zeros"], largest=6), st.floats(-1.5, 0.3))
def test_lasso(drawn, log_alpha):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Lasso

    x, y = drawn
    alpha = 10**log_alpha
    lasso = Lasso(alpha=alpha, fit_intercept=False, tol=1e-15, max_iter=100_000)
    try:
        compare("lasso", {"alpha": alpha}, lasso, x, y)
    except ConvergenceWarning:
        assume(False)


@quickly
@given(any_points(), st.floats(-6, 1))
def test_the_lasso_ends_where_no_direction_leads_down(drawn, log_alpha):
    x, y = (tensor.reshape(-1, *tensor.shape[-2:])[0] for tensor in drawn)
    n = len(x)
    gram, moment, strength = x.mT @ x / n, (x.mT @ y[:, 0]) / n, 10**log_alpha
    weights, ended = solve(gram[None], moment[None], torch.tensor([strength]))
    assume(bool(ended))
    w = weights[0]
    gradient = gram @ w - moment
    slack = 1e-9 * (strength + moment.abs().max())
    assert (gradient.abs() <= strength + slack).all()
    at = w != 0
    torch.testing.assert_close(gradient[at], -strength * w[at].sign(), rtol=0, atol=float(slack))


@pytest.mark.parametrize("structure", ["repeated column", "repeated points", "subspace"])
def test_the_lasso_of_dependent_columns_has_the_fit_of_scikit_learn(structure):
    from sklearn.linear_model import Lasso

    x, y = points(3, 10, 4, 2, (3,), structure)
    lasso = Lasso(alpha=0.05, fit_intercept=False, tol=1e-13, max_iter=100_000)
    # Repeated columns have many solutions, with one fit.
    compare("lasso", {"alpha": 0.05}, lasso, x, y, tolerance=1e-7)


def test_what_the_search_does_not_finish_is_left_to_scikit_learn():
    from iclens.estimators.feature_sign import solve
    from iclens.estimators.lasso import Lasso

    unfinished = []

    class Impatient(Lasso):
        def search(self, gram, moment, strength):
            weights, ended = solve(gram, moment, strength, sweeps=1, steps=1)
            unfinished.append(int((~ended).sum()))
            return weights, ended

    x, y = points(4, 8, 3, 2, (2,))
    expected = Lasso(alpha=0.1, tol=1e-14).prefixes(x, y)
    torch.testing.assert_close(Impatient(alpha=0.1, tol=1e-14).prefixes(x, y), expected, rtol=1e-8, atol=1e-8)
    assert unfinished[0] > 0


@settings(deadline=None, max_examples=8)
@given(any_points(largest=4), st.sampled_from([None, 1, 3]), st.integers(1, 3))
def test_decision_tree(drawn, max_depth, min_samples_leaf):
    from sklearn.tree import DecisionTreeRegressor

    x, y = drawn
    options = {"max_depth": max_depth, "min_samples_leaf": min_samples_leaf, "random_state": 3}
    compare("decision-tree", options, DecisionTreeRegressor(**options), x, y)


def test_gradient_boosting():
    from sklearn.ensemble import GradientBoostingRegressor

    x, y = points(5, 8, 3, 1, (2,))
    options = {"n_estimators": 7, "learning_rate": 0.3, "max_depth": 2, "subsample": 0.7, "random_state": 1}
    theirs = GradientBoostingRegressor(**options)

    def answer(xs, ys, query):
        return theirs.fit(xs, ys).predict(query)[0] if len(ys) > 1 else ys[0]

    found = build_estimator("gradient-boosting", options).prefixes(x, y)
    torch.testing.assert_close(found, by_prompt_and_prefix(answer, x, y), rtol=1e-12, atol=1e-12)


def test_two_layer_network_is_trained_as_one_trained_alone():
    x, y = points(6, 12, 3, 2, (2,))
    estimator = build_estimator("two-layer-network", {"n_steps": 30, "hidden_size": 8, "seed": 5})
    found = estimator.prefixes(x, y)
    for b, i, output in [(0, 1, 0), (1, 11, 1), (0, 6, 1)]:
        hidden, last = torch.nn.Linear(3, 8), torch.nn.Linear(8, 1)
        with torch.no_grad():
            for parameter, start in zip(
                [hidden.weight, hidden.bias, last.weight, last.bias], estimator.initial(3), strict=True
            ):
                parameter.copy_(start.reshape(parameter.shape))
        network = torch.nn.Sequential(hidden, torch.nn.ReLU(), last)
        adam = torch.optim.Adam(network.parameters(), lr=estimator.learning_rate)
        for _ in range(30):
            adam.zero_grad()
            torch.nn.functional.mse_loss(network(x[b, :i])[:, 0], y[b, :i, output]).backward()
            adam.step()
        expected = network(x[b, i])[0].detach()
        torch.testing.assert_close(found[b, i, output], expected, rtol=1e-8, atol=1e-8)


def test_the_start_of_the_network_is_that_of_torchs_layers():
    w, b, a, c = build_estimator("two-layer-network", {"hidden_size": 500}).initial(20)
    assert w.shape == (500, 20)
    for start, fan_in in ((w, 20), (b, 20), (a, 500), (c, 500)):
        assert start.abs().max() <= fan_in**-0.5
    # Uniform on ±l has variance l²/3.
    assert np.isclose(w.var().item(), 1 / 60, rtol=0.05)
