"""Distances of algorithms: zero for equal ones, known in closed form for linear ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.errors import UserError
from iclens.estimators.estimator import build_estimator
from iclens.estimators.ridge import Ridge
from iclens.matching.distances import (
    alignment,
    implied_weight_difference,
    implied_weights,
    sensitivity,
    squared_prediction_difference,
)
from iclens.matching.predictor import at_queries, of_estimator
from iclens.matching.ridge_parameter import best_ridge
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.task import build_task


def drawn(batch=6, n_context=9, d=4, d_y=1, seed=0, noise_std=0.3):
    task = build_task("linear", d=d, d_y=d_y, noise_std=noise_std)
    return task.sample(torch.Generator().manual_seed(seed), batch, n_context)


def ridge_weights(prompt: PromptBatch, alpha: float) -> torch.Tensor:
    x, y = prompt.xs, prompt.ys
    return torch.linalg.solve(x.mT @ x + alpha * torch.eye(x.shape[-1]), x.mT @ y)


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 8), st.floats(0.01, 10.0))
@settings(max_examples=20, deadline=None)
def test_implied_weights_of_a_linear_algorithm_are_its_weights(d, d_y, n_context, alpha):
    prompt = drawn(d=d, d_y=d_y, n_context=n_context)
    queries = torch.randn(6, 3 * d, d)
    weights, explained = implied_weights(of_estimator(Ridge(alpha=alpha)), prompt, queries)
    torch.testing.assert_close(weights, ridge_weights(prompt, alpha), rtol=1e-8, atol=1e-9)
    if n_context:
        torch.testing.assert_close(explained, torch.ones(6), rtol=0, atol=1e-9)


def test_answers_at_queries_are_those_of_the_queries_asked_one_by_one():
    prompt, queries = drawn(d_y=2), torch.randn(6, 5, 4)
    predictor = of_estimator(build_estimator("least-squares"))
    together = at_queries(predictor, prompt, queries)
    for place in range(5):
        inputs = torch.cat([prompt.xs, queries[:, place : place + 1]], 1)
        torch.testing.assert_close(together[:, place], predictor(inputs, prompt.labels)[:, -1])


def test_spd_and_ilwd_of_two_ridge_regressions_agree_where_inputs_are_white():
    # E ‖(ŵ_1 − ŵ_2)ᵀ x'‖² = ‖ŵ_1 − ŵ_2‖² for x' ~ N(0, I).
    prompt, queries = drawn(batch=40), torch.randn(40, 4000, 4)
    one, other = (of_estimator(Ridge(alpha=alpha)) for alpha in (0.1, 3.0))
    weights = [implied_weights(algorithm, prompt, queries[:, :16])[0] for algorithm in (one, other)]
    differences = (queries @ (weights[0] - weights[1])).square().mean(1)[:, 0]
    torch.testing.assert_close(differences, implied_weight_difference(*weights), rtol=0.2, atol=1e-3)
    assert float(squared_prediction_difference(torch.ones(2, 3, 2), torch.zeros(2, 3, 2)).unique()) == 2.0


@pytest.mark.parametrize("d_y", [1, 3])
def test_the_sensitivity_of_ridge_is_its_weights(d_y):
    prompt = drawn(d_y=d_y)
    torch.testing.assert_close(sensitivity(of_estimator(Ridge(alpha=0.5)), prompt), ridge_weights(prompt, 0.5).mT)


def test_a_step_function_has_no_sensitivity_and_no_alignment():
    prompt = drawn()
    flat = sensitivity(of_estimator(build_estimator("mean")), prompt)
    assert flat.shape == (6, 1, 4)
    assert not flat.any()
    slope = sensitivity(of_estimator(Ridge(alpha=0.5)), prompt)
    assert alignment(flat, slope).isnan().all()
    torch.testing.assert_close(alignment(slope, 3 * slope), torch.ones(6))
    torch.testing.assert_close(alignment(slope, -slope), -torch.ones(6))


def test_too_few_queries_for_implied_weights_are_refused():
    with pytest.raises(UserError, match="implied weights of width 4 need at least as many queries, not 3"):
        implied_weights(of_estimator(Ridge(alpha=1.0)), drawn(), torch.randn(6, 3, 4))


@given(st.floats(1e-3, 1e2))
@settings(max_examples=10, deadline=None)
def test_the_best_ridge_parameter_of_a_ridge_regression_is_its_own(alpha):
    prompt = drawn(batch=20)
    fit = best_ridge(Ridge(alpha=alpha).prefixes(prompt.inputs, prompt.labels), prompt)
    assert fit.alpha == pytest.approx(alpha, rel=1e-3)
    assert fit.spd < 1e-8
    assert not fit.at_edge


def test_the_nearest_ridge_to_answers_of_zero_lies_at_the_edge():
    prompt = drawn()
    assert best_ridge(torch.zeros_like(prompt.labels), prompt).at_edge
