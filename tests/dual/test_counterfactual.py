"""The counterfactual of a head: gradient flow and ridge against autograd and brute force."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from iclens.dual import Counterfactual, DualModel
from iclens.errors import UserError
from iclens.features.correlation import correlation, square_root
from iclens.kernels import SoftcappedKernel

RIDGE = 0.05


def head(n_query=3, n_key=9, d=4, d_v=5, size=1.0, seed=0, mask=False, leading=()):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(*leading, n, width, generator=generator, dtype=torch.float64)
        for n, width in ((n_query, d), (n_key, d), (n_key, d_v))
    )
    seen = None
    if mask:
        seen = torch.rand(n_query, n_key, generator=generator) < 0.6
        seen[:, 0] = True
    return DualModel.from_attention(size * q, size * k, v, n_key, seen)


def features(dual):
    """Unit features of the keys as rows, and the test inputs whose products with them are the attention weights."""
    phi = square_root(correlation(dual.kernel, dual.k, dual.k))
    return phi, torch.linalg.lstsq(phi, dual.coefficients.mT).solution.mT


def squared(W, phi, v, ridge):
    return ((phi @ W.mT - v).square().sum() + ridge * W.square().sum()) / 2


def linear(W, phi, v, ridge):
    return -((phi @ W.mT) * v).sum()


@pytest.mark.parametrize("loss", [linear, squared])
def test_one_step_of_autograd_on_either_loss_is_the_head(loss):
    dual = head()
    phi, tested = features(dual)
    W = torch.zeros(dual.v.shape[-1], phi.shape[-1], requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(W, phi, dual.v, RIDGE), W)
    expected = scaled_dot_product_attention(dual.q, dual.k, dual.v)
    torch.testing.assert_close(tested @ -gradient.mT, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("time", [0.3, 2.0, 40.0])
def test_many_small_steps_of_autograd_on_the_squared_loss_follow_the_flow(time):
    """Euler's error falls with the step, so that two sizes of step extrapolate to the flow."""
    dual = head()
    phi, tested = features(dual)

    def descended(n_steps):
        W = torch.zeros(dual.v.shape[-1], phi.shape[-1], requires_grad=True)
        for _ in range(n_steps):
            (gradient,) = torch.autograd.grad(squared(W, phi, dual.v, RIDGE), W)
            W = (W - time / n_steps * gradient).detach().requires_grad_()
        return tested @ W.detach().mT

    coarse, fine = descended(1000), descended(2000)
    found = Counterfactual.of(dual, RIDGE).flow(time)
    torch.testing.assert_close(2 * fine - coarse, found, rtol=1e-4, atol=1e-4)


def test_the_end_is_kernel_ridge_regression_by_an_optimiser_and_in_closed_form():
    dual = head()
    phi, tested = features(dual)
    W = torch.zeros(dual.v.shape[-1], phi.shape[-1], requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [W], max_iter=500, tolerance_grad=1e-12, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        value = squared(W, phi, dual.v, RIDGE)
        value.backward()
        return value

    optimiser.step(closure)
    end = Counterfactual.of(dual, RIDGE).end()
    torch.testing.assert_close(tested @ W.detach().mT, end, rtol=1e-6, atol=1e-6)
    gaussian = torch.exp(-(4**-0.5) * torch.cdist(dual.k, dual.k).square() / 2)
    closed = dual.coefficients @ torch.linalg.solve(gaussian + RIDGE * torch.eye(9), dual.v)
    torch.testing.assert_close(closed, end, rtol=1e-10, atol=1e-10)


def test_the_flow_starts_at_nothing_along_the_head_and_ends_at_the_end():
    found = Counterfactual.of(head(), RIDGE)
    out = found.dual.predict()
    assert float(found.flow(0.0).abs().max()) == 0.0
    torch.testing.assert_close(found.flow(1e-7) / 1e-7, out, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.flow(1e6), found.end(), rtol=1e-12, atol=1e-12)


def test_a_query_leaves_out_what_it_may_not_attend_to():
    dual = head(mask=True)
    whole = Counterfactual.of(dual, RIDGE)
    for row in range(3):
        kept = dual.mask[row]
        alone = DualModel.from_attention(dual.q[row : row + 1], dual.k[kept], dual.v[kept], int(kept.sum()))
        expected = Counterfactual.of(alone, RIDGE)
        for ours, theirs in (
            (whole.end(), expected.end()),
            (whole.flow(2.5), expected.flow(2.5)),
            (whole.kernel_ridge(), expected.kernel_ridge()),
            (whole.nearest().distance, expected.nearest().distance),
        ):
            torch.testing.assert_close(ours[row], theirs[0], rtol=1e-9, atol=1e-9)


def test_heads_side_by_side_are_each_alone():
    dual = head(leading=(2, 3))
    both = Counterfactual.of(dual, RIDGE)
    one = Counterfactual.of(DualModel.from_attention(dual.q[1, 2], dual.k[1, 2], dual.v[1, 2], 9), RIDGE)
    torch.testing.assert_close(both.end()[1, 2], one.end(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(both.nearest().distance[1, 2], one.nearest().distance, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(both.condition[1, 2], one.condition, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
def test_no_time_of_a_fine_grid_is_nearer_than_the_nearest(size):
    found = Counterfactual.of(head(size=size), RIDGE)
    out, nearest = found.dual.predict(), found.nearest()
    for time in [*torch.logspace(-4, 4, 2000).tolist(), math.inf]:
        assert bool(((found.flow(time) - out).norm(dim=-1) >= nearest.distance * (1 - 1e-9)).all())
    at = torch.where(nearest.time.isinf(), 1e9, nearest.time)
    torch.testing.assert_close((found.flow(at) - out).norm(dim=-1), nearest.distance, rtol=1e-9, atol=1e-12)


def test_with_orthogonal_keys_the_end_is_the_head_but_for_the_ridge():
    """Long keys, far from each other: C = I to rounding."""
    dual = head(size=40.0, d=16)
    found = Counterfactual.of(dual, RIDGE)
    torch.testing.assert_close(found.end() * (1 + RIDGE), dual.predict(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.condition, torch.ones(1))
    torch.testing.assert_close(found.flow(1.0), dual.predict() * -math.expm1(-1 - RIDGE) / (1 + RIDGE))


def test_repeated_keys_are_no_obstacle_and_share_their_pull():
    """With a key twice, the end fits the mean of its two targets."""
    dual = head()
    k, v = torch.cat([dual.k, dual.k[:1]]), torch.cat([dual.v, dual.v[:1] + 1.0])
    found = Counterfactual.of(DualModel.from_attention(dual.k[:1], k, v, 10), 1e-9)
    fitted = (
        (found.gram[0, :1] - 1e-9 * torch.eye(10)[:1]) @ found.basis[0] / found.eigenvalues[0] @ found.basis[0].mT @ v
    )
    torch.testing.assert_close(fitted[0], v[0] + 0.5, rtol=1e-5, atol=1e-5)


def test_kernel_ridge_is_that_of_the_exponential_kernel_over_its_prediction_for_ones():
    dual = head()
    K = torch.exp(dual.k @ dual.k.mT / 2)
    penalised = K + RIDGE * torch.diag(K.diagonal())
    to_query = torch.exp(dual.q @ dual.k.mT / 2)
    targets = torch.cat([dual.v, torch.ones(9, 1)], -1)
    raw = to_query @ torch.linalg.solve(penalised, targets)
    found = Counterfactual.of(dual, RIDGE).kernel_ridge()
    torch.testing.assert_close(found, raw[:, :-1] / raw[:, -1:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [6.0, 30.0])
def test_kernel_ridge_of_keys_far_apart_weighs_by_score_and_shortness(size):
    """With C = I it is softmax of scale (q·k_i − ‖k_i‖²)."""
    known = 0
    for seed in range(8):
        dual = head(size=size, d=16, seed=seed)
        expected = (dual.q @ dual.k.mT - dual.k.square().sum(-1)).div(4).softmax(-1) @ dual.v
        found = Counterfactual.of(dual, RIDGE).kernel_ridge()
        sure = found.isfinite().all(-1)
        known += int(sure.sum())
        torch.testing.assert_close(found[sure], expected[sure], rtol=1e-3, atol=1e-3)
    assert known >= 12


@pytest.mark.parametrize(("length", "sure"), [(6.0, True), (70.0, False)])
def test_kernel_ridge_says_where_rounding_would_decide(length, sure):
    """A zero key counts, though at length 70 its product with the query's direction leaves the range of the dtype."""
    key = torch.tensor([[length, 0.0, 0.0, 0.0]])
    k, v, q = torch.cat([torch.zeros(1, 4), key]), torch.eye(2), 0.9 * key
    found = Counterfactual.of(DualModel.from_attention(q, k, v, 2), RIDGE).kernel_ridge()
    if sure:
        K, to_query = torch.exp(k @ k.mT / 2), torch.exp(q @ k.mT / 2)
        raw = torch.linalg.solve(K + RIDGE * torch.diag(K.diagonal()), to_query[0])
        torch.testing.assert_close(found[0], raw / raw.sum(), rtol=1e-6, atol=1e-9)
    assert bool(found.isfinite().all()) == sure


def test_scores_of_any_size_stay_finite():
    found = Counterfactual.of(head(size=100.0), 1e-3)
    for numbers in (found.end(), found.flow(1.0), found.nearest().distance):
        assert bool(numbers.isfinite().all())


def test_what_has_no_counterfactual_is_refused():
    dual = head()
    with pytest.raises(UserError, match=r"ridge=0\.0 must be positive"):
        Counterfactual.of(dual, 0.0)
    with pytest.raises(UserError, match="does not normalise"):
        Counterfactual.of(DualModel.from_attention(dual.q, dual.k, dual.v, 9, kernel="linear"))
    with pytest.raises(UserError, match="softcapped kernel is not positive semi-definite"):
        Counterfactual.of(DualModel.from_attention(dual.q, dual.k, dual.v, 9, kernel=SoftcappedKernel(1.0, 5.0)))
    with pytest.raises(UserError, match="training weights"):
        Counterfactual.of(DualModel.from_attention(dual.q, dual.k, dual.v, 9, training_weights=0.5))
