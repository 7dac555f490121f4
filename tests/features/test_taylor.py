"""Taylor features: the polynomial they stand for, and the bounds on what it leaves out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens import DualModel, UserError
from iclens.features import TaylorFeatures
from iclens.kernels import GaussianKernel, LinearKernel, SoftmaxKernel


def series(s, order):
    return sum(s**m / math.factorial(m) for m in range(order + 1))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    d=st.integers(1, 5),
    order=st.integers(1, 6),
    scale=st.floats(0.05, 3),
    size=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
)
def test_features_multiply_to_the_truncated_series(seed, d, order, scale, size):
    generator = torch.Generator().manual_seed(seed)
    x, y = (size * torch.randn(3, d, generator=generator) for _ in range(2))
    taylor = TaylorFeatures(order)
    for kernel in (SoftmaxKernel(scale), GaussianKernel(scale)):
        (phi_x, log_x), (phi_y, log_y) = (taylor.features(tokens, kernel) for tokens in (x, y))
        assert phi_x.shape == (3, math.comb(d + order, order))
        assert taylor.n_features(d) == phi_x.shape[-1]
        found = (log_x[:, None] + log_y).exp() * (phi_x @ phi_y.mT)
        expected = series(scale * x @ y.mT, order)
        # Rounding is relative to the polynomial of |x||y|, which cancels in T_p.
        largest = series(scale * x.norm(dim=-1)[:, None] * y.norm(dim=-1), order)
        if isinstance(kernel, GaussianKernel):
            norms = (-scale * (x.square().sum(-1)[:, None] + y.square().sum(-1)) / 2).exp()
            expected, largest = expected * norms, largest * norms
        # What is smaller than the smallest normal number has lost its digits.
        assert ((found - expected).abs() <= 1e-13 * largest + torch.finfo(found.dtype).tiny).all()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    order=st.integers(1, 8),
    size=st.sampled_from([0.0, 0.3, 1.0, 3.0]),
    scale=st.floats(0.1, 2),
)
def test_the_remainder_stays_within_its_bound(seed, order, size, scale):
    generator = torch.Generator().manual_seed(seed)
    q, k = (size * torch.randn(6, 2, generator=generator) for _ in range(2))
    s = scale * q @ k.mT
    remainder = (s.exp() - series(s, order)).abs()
    bound = TaylorFeatures(order).remainder_bound(q, k, scale)
    rounding = 1e-14 * series(s.abs(), order)
    assert (remainder <= bound + rounding).all()
    # Not idle: Lagrange's remainder is within e^{|s|} of the truth.
    assert (bound <= (remainder + rounding) * s.abs().exp() * 1.001 + rounding).all()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    order=st.sampled_from([1, 2, 3, 4, 6]),
    largest_score=st.floats(0.01, 3),
    masked=st.booleans(),
)
def test_attention_with_these_features_stays_within_its_bound(seed, order, largest_score, masked):
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(2, n, 3, generator=generator) for n in (4, 7))
    v = torch.randn(2, 7, 5, generator=generator)
    factor = (largest_score / (q @ k.mT).abs().max() / 0.5).sqrt()
    q, k = q * factor, k * factor
    mask = torch.ones(4, 7, dtype=torch.bool).tril(2) if masked else None
    taylor = TaylorFeatures(order)
    bound = taylor.attention_bound(q, k, v, 0.5, mask)
    assert bound.shape == (2, 4)
    dual = DualModel.from_attention(q, k, v, 4, mask=mask, scale=0.5)
    if not bound.isfinite().all():
        assert order % 2 == 1
        return
    error = (dual.explicit(taylor).predict() - dual.predict()).norm(dim=-1)
    assert (error <= bound + 1e-13 * v.norm(dim=-1).max()).all()


def test_the_bound_on_the_output_tends_to_zero_with_the_order():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(n, 2, generator=generator) for n in (3, 8, 8))
    bounds = torch.stack([TaylorFeatures(order).attention_bound(q, k, v, 1.0) for order in (2, 6, 12, 20, 40)])
    assert (bounds[1:] < bounds[:-1]).all()
    assert bounds[-1].max() < 1e-12


def test_an_even_order_keeps_the_normaliser_positive_and_an_odd_one_need_not():
    q, k = torch.tensor([[4.0]]), torch.tensor([[-1.0], [-2.0]])
    dual = DualModel.from_attention(q, k, torch.ones(2, 1), 1)
    assert dual.explicit(TaylorFeatures(2)).predict().item() == pytest.approx(1)
    with pytest.raises(UserError, match="not positive"):
        dual.explicit(TaylorFeatures(3))
    assert TaylorFeatures(3).attention_bound(q, k, torch.ones(2, 1), 1.0).isinf().all()


def test_training_equals_attention_with_the_same_polynomial():
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(2, n, 4, generator=generator) for n in (3, 6))
    v = torch.randn(2, 6, 2, generator=generator)
    values = series(q @ k.mT * 0.5, 4)
    expected = values / values.sum(-1, keepdim=True) @ v
    training = DualModel.from_attention(q, k, v, 4, scale=0.5).explicit(TaylorFeatures(4)).train(order="sequential")
    assert torch.allclose(training.prediction, expected, rtol=1e-12, atol=1e-13)
    assert training.trajectory_same_features[..., -1].max() < 1e-13


def test_high_powers_of_large_tokens_do_not_overflow():
    x = torch.full((1, 2), 1e40)
    phi, log_scale = TaylorFeatures(8).features(x, SoftmaxKernel(1.0))
    assert phi.isfinite().all()
    # (x·x)^8/8! = 2^8 · 1e640/8!, the leading term
    found = 2 * log_scale + (phi @ phi.mT).log().squeeze(-1)
    assert found.item() == pytest.approx(8 * math.log(2) + 640 * math.log(10) - math.lgamma(9), rel=1e-12)


def test_gradients_flow_through():
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(n, 2, generator=generator, requires_grad=True) for n in (2, 4, 4))

    def output(q, k, v):
        return DualModel.from_attention(q, k, v, 3).explicit(TaylorFeatures(4)).predict()

    assert torch.autograd.gradcheck(output, (q, k, v))


def test_mistakes_are_named():
    with pytest.raises(UserError, match="814,385 per token, more than 100,000"):
        TaylorFeatures(4).features(torch.randn(2, 64), SoftmaxKernel(1.0))
    with pytest.raises(UserError, match="not for LinearKernel"):
        TaylorFeatures().features(torch.randn(2, 3), LinearKernel())
    with pytest.raises(UserError, match="order=0"):
        TaylorFeatures(0)
