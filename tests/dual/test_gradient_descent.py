"""Linear attention as gradient descent on least squares, against autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens import DualModel, UserError
from iclens.dual.descent import gd_plus_plus, gradient_descent, one_step_head, weight_update_as_attention

TOLERANCE = 1e-12


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-300)).item()


problems = {
    "seed": st.integers(0, 2**31),
    "n": st.integers(1, 12),
    "d_x": st.integers(1, 6),
    "d_y": st.integers(1, 4),
    "leading": st.sampled_from([(), (2,), (3, 2)]),
    "eta": st.sampled_from([1e-3, 0.2, 1.5]),
}


def problem(seed, leading, n, d_x, d_y):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*leading, n, d_x, generator=generator)
    y = torch.randn(*leading, n, d_y, generator=generator)
    W_0 = torch.randn(d_y, d_x, generator=generator)
    return x, y, W_0, torch.randn(*leading, 3, d_x, generator=generator)


@settings(deadline=None, max_examples=40)
@given(**problems)
def test_one_head_is_one_gradient_step(seed, n, d_x, d_y, leading, eta):
    x, y, W_0, x_test = problem(seed, leading, n, d_x, d_y)
    head = one_step_head(x, y, W_0, eta)
    W = gradient_descent(x, y, W_0, eta)
    expected = x_test @ W.mT
    size = ((x_test.abs() @ (W.abs() + W_0.abs()).mT).max() / expected.abs().max()).item()
    assert relative(head.predict(x_test), expected) <= TOLERANCE * size
    # The dual model's Ŵ − W_0 at the query is minus the step; the query is not among the keys.
    queries = head.query(x_test)
    dual = head.dual(queries)
    assert dual.n_demonstrations == n
    step = dual.contributions().sum(-2)
    assert (step[..., :d_x] == 0).all()
    assert (step[..., d_x:] + x_test @ (W - W_0).mT).abs().max() <= TOLERANCE * size * expected.abs().max()
    # Labels of the context become the residual problem: y − ΔW x.
    updated = head.update()
    assert (updated[..., :d_x] - x).abs().max() <= TOLERANCE
    label_size = y.abs().max() + (x.abs() @ (W - W_0).abs().mT).max()
    assert (updated[..., d_x:] - (y - x @ (W - W_0).mT)).abs().max() <= TOLERANCE * label_size


def test_the_weights_are_those_of_the_proposition():
    x, y, W_0 = torch.randn(4, 3), torch.randn(4, 2), torch.randn(2, 3)
    head = one_step_head(x, y, W_0, 0.6)
    assert torch.equal(head.W_Q, torch.diag(torch.tensor([1.0, 1, 1, 0, 0])))
    assert torch.equal(head.W_K, head.W_Q)
    expected = torch.zeros(5, 5)
    expected[3:, :3], expected[3:, 3:] = W_0, -torch.eye(2)
    assert torch.equal(head.W_V, expected)
    assert torch.equal(head.P, 0.6 / 4 * torch.eye(5))
    # The formula of the paper, in its columns: e_j + P Σ_i (W_V e_i)(W_K e_i)ᵀ W_Q e_j.
    e = head.tokens.mT
    columns = e + head.P @ (head.W_V @ e) @ (head.W_K @ e).mT @ (head.W_Q @ e)
    assert relative(head.update().mT, columns) <= TOLERANCE


@settings(deadline=None, max_examples=25)
@given(**problems, steps=st.integers(0, 6))
def test_layers_of_the_head_are_steps_of_gradient_descent(seed, n, d_x, d_y, leading, eta, steps):
    x, y, W_0, x_test = problem(seed, leading, n, d_x, d_y)
    eta = min(eta, 0.2)
    expected = x_test @ gradient_descent(x, y, W_0, eta, steps).mT
    size = 1 + (x_test.abs() @ W_0.abs().mT).max().item() / expected.abs().max().item()
    # A step may grow what rounding there is, by ‖I − η/N XᵀX‖.
    curvature = torch.linalg.matrix_norm(x.mT @ x / n, 2).max().item()
    growth = max(1.0, abs(1 - eta * curvature)) ** steps
    assert relative(one_step_head(x, y, W_0, eta).predict(x_test, steps), expected) <= TOLERANCE * size * growth


def test_many_layers_reach_least_squares():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 3, generator=generator)
    W = torch.randn(2, 3, generator=generator)
    x_test = torch.randn(4, 3, generator=generator)
    head = one_step_head(x, x @ W.mT, torch.zeros(2, 3), 1.0)
    assert relative(head.predict(x_test, 200), x_test @ W.mT) <= 1e-12


@settings(deadline=None, max_examples=25)
@given(**problems, gamma=st.sampled_from([0.0, 0.01, 0.1]))
def test_gd_plus_plus_is_the_same_head_with_one_more_block(seed, n, d_x, d_y, leading, eta, gamma):
    x, y, W_0, _ = problem(seed, leading, n, d_x, d_y)
    head = one_step_head(x, y, W_0, eta, gamma)
    updated = head.update()
    moved = gd_plus_plus(x, gamma)
    size = (x.abs() + gamma * (x @ x.mT).abs() @ x.abs()).max()
    assert (updated[..., :d_x] - moved).abs().max() <= TOLERANCE * size
    plain = one_step_head(x, y, W_0, eta)
    assert torch.allclose(updated[..., d_x:], plain.update()[..., d_x:], rtol=1e-12, atol=1e-12)
    # In its columns: (I − γ X Xᵀ) X.
    X = x.mT
    expected = (torch.eye(d_x) - gamma * X @ X.mT) @ X
    assert (moved.mT - expected).abs().max() <= TOLERANCE * size


def test_gd_plus_plus_changes_the_curvature_as_stated():
    x = torch.randn(12, 4)
    values = torch.linalg.eigvalsh(x.mT @ x)
    gamma = 0.3 / values.max()
    moved = gd_plus_plus(x, gamma.item())
    expected = (values * (1 - gamma * values) ** 2).sort().values
    assert relative(torch.linalg.eigvalsh(moved.mT @ moved), expected) <= TOLERANCE


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 9),
    d_in=st.integers(1, 6),
    d_out=st.integers(1, 5),
    leading=st.sampled_from([(), (2,), (2, 3)]),
)
def test_a_weight_update_is_linear_attention(seed, n, d_in, d_out, leading):
    generator = torch.Generator().manual_seed(seed)
    W_0 = torch.randn(d_out, d_in, generator=generator)
    errors = torch.randn(*leading, n, d_out, generator=generator)
    inputs = torch.randn(*leading, n, d_in, generator=generator)
    x = torch.randn(*leading, d_in, generator=generator)
    both = weight_update_as_attention(W_0, errors, inputs, x)
    outer = sum(torch.einsum("...o,...i->...oi", errors[..., i, :], inputs[..., i, :]) for i in range(n))
    expected = torch.einsum("...oi,...i->...o", W_0 + outer, x)
    size = torch.einsum("...oi,...i->...o", W_0.abs() + outer.abs(), x.abs()).max()
    size = size + (errors.abs().mT @ inputs.abs() @ x.abs().unsqueeze(-1)).max()
    assert (both.updated - expected).abs().max() <= TOLERANCE * size
    assert (both.attended - expected).abs().max() <= TOLERANCE * size


def test_dais_identity_is_a_gradient_step_of_any_linear_layer():
    W_0, inputs, x = torch.randn(3, 4), torch.randn(6, 4), torch.randn(4)
    leaf = W_0.clone().requires_grad_()
    loss = (inputs @ leaf.mT).tanh().square().sum()
    outputs = inputs @ W_0.mT
    errors = -0.1 * 2 * outputs.tanh() * (1 - outputs.tanh().square())
    (gradient,) = torch.autograd.grad(loss, leaf)
    both = weight_update_as_attention(W_0, errors, inputs, x)
    assert relative(both.attended, (W_0 - 0.1 * gradient) @ x) <= TOLERANCE
    attention = DualModel.from_attention(x.unsqueeze(0), inputs, errors, 6, kernel="linear")
    assert relative(attention.predict().squeeze(0), both.attended - W_0 @ x) <= 1e-11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(4, 3), torch.zeros(5, 2), torch.zeros(2, 3), 1.0), "must be"),
        ((torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(3, 2), 1.0), "must be"),
        ((torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(2, 3), 0.0), "must be positive"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        one_step_head(*arguments)


def test_a_negative_number_of_steps_is_refused():
    head = one_step_head(torch.randn(4, 3), torch.randn(4, 2), torch.zeros(2, 3), 1.0)
    with pytest.raises(UserError, match="must not be negative"):
        head.predict(torch.randn(1, 3), -1)
