"""Positive random features: unbiased, deterministic, and an approximation study."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens import DualModel, UserError
from iclens.features import PositiveRandomFeatures
from iclens.kernels import GaussianKernel, LinearKernel, SoftmaxKernel


def draw(seed, n_key, d, size=1.0, n_query=1):
    generator = torch.Generator().manual_seed(seed)
    q, k = (size * torch.randn(n, d, generator=generator) for n in (n_query, n_key))
    return q, k, torch.randn(n_key, d, generator=generator)


def output_error(features, q, k, v):
    """Output of attention with these features, minus softmax attention."""
    dual = DualModel.from_attention(q, k, v, k.shape[0])
    return dual.explicit(features).predict() - dual.predict()


def mean_squared(n_features, *, d, n_key, size, orthogonal=False, n_draws):
    errors = [
        output_error(PositiveRandomFeatures(n_features, orthogonal, seed), *draw(seed, n_key, d, size)).square().mean()
        for seed in range(n_draws)
    ]
    return torch.stack(errors).mean().item()


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("kernel", [SoftmaxKernel(0.5), GaussianKernel(0.5)])
def test_the_kernel_is_estimated_without_bias_and_with_the_stated_variance(kernel, orthogonal):
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(1, 4, generator=generator) for _ in range(2))
    n_draws, n_features = 1500, 16
    ratios = []
    for seed in range(n_draws):
        (phi_x, scale_x), (phi_y, scale_y) = (
            PositiveRandomFeatures(n_features, orthogonal, seed).features(token, kernel) for token in (x, y)
        )
        ratios.append(((phi_x @ phi_y.mT).log().squeeze() + scale_x + scale_y - kernel.log(x, y).log_abs).exp())
    ratios = torch.cat([ratio.flatten() for ratio in ratios])
    standard_error = ratios.std() / n_draws**0.5
    assert standard_error < 0.02
    assert abs(ratios.mean() - 1) < 3.5 * standard_error
    if not orthogonal:
        expected = torch.expm1(0.5 * (x + y).square().sum()) / n_features
        assert 0.6 < ratios.var() / expected < 1.6


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(-5, 2**31),
    n_features=st.integers(1, 50),
    d=st.integers(1, 20),
    orthogonal=st.booleans(),
    gaussian=st.booleans(),
)
def test_features_equal_their_formula_and_depend_on_the_seed_alone(seed, n_features, d, orthogonal, gaussian):
    features = PositiveRandomFeatures(n_features, orthogonal, seed)
    torch.manual_seed(seed % 7)
    kernel = (GaussianKernel if gaussian else SoftmaxKernel)(0.3)
    x = torch.randn(3, d)
    w = features.directions(d)
    assert w.shape == (n_features, d)
    assert torch.equal(w, PositiveRandomFeatures(n_features, orthogonal, seed).directions(d))
    z = x * 0.3**0.5
    norm = z.square().sum(-1, keepdim=True) * (1 if gaussian else 0.5)
    phi, log_scale = features.features(x, kernel)
    expected = (z @ w.mT - norm).exp() / n_features**0.5
    assert torch.allclose(phi * log_scale.exp().unsqueeze(-1), expected, rtol=1e-12, atol=0)
    assert torch.allclose(phi.amax(-1), torch.tensor(n_features**-0.5))
    # The same draws in another dtype, and for one token as for many.
    single, _ = features.features(x.float(), kernel)
    assert single.dtype == torch.float32
    assert torch.allclose(single, phi.float(), rtol=1e-3, atol=1e-6)
    assert torch.allclose(features.features(x[1:2], kernel)[0], phi[1:2], rtol=1e-12, atol=0)


def test_another_seed_is_another_map_and_none_repeats_the_data():
    a, b = (PositiveRandomFeatures(8, seed=seed).directions(4) for seed in (0, 1))
    assert (a - b).abs().min() > 0
    # Data drawn after manual_seed(0) must not be the features' own directions.
    assert not torch.equal(a, torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))


def test_orthogonal_directions_are_orthogonal_in_blocks_and_gaussian_one_by_one():
    w = PositiveRandomFeatures(4 * 500, orthogonal=True, seed=1).directions(4)
    blocks = w.unflatten(0, (500, 4))
    gram = blocks @ blocks.mT
    lengths = gram.diagonal(dim1=-2, dim2=-1)
    assert (gram - torch.diag_embed(lengths)).abs().max() < 1e-12
    # E w = 0, E w wᵀ = I, E ‖w‖⁴ = d(d + 2) for N(0, I).
    assert w.mean(0).abs().max() < 4 * 2000**-0.5
    assert (w.mT @ w / 2000 - torch.eye(4)).abs().max() < 0.1
    assert abs(lengths.square().mean() / 24 - 1) < 0.1
    # The last block is cut short.
    short = PositiveRandomFeatures(6, orthogonal=True, seed=1).directions(4)
    assert short.shape == (6, 4)
    assert (short[4] @ short[5]).abs() < 1e-12


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    n_features=st.integers(1, 64),
    orthogonal=st.booleans(),
    leading=st.sampled_from([(), (2,), (2, 3)]),
    masked=st.booleans(),
)
def test_training_equals_attention_with_the_same_features_at_any_number(seed, n_features, orthogonal, leading, masked):
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(*leading, n, 5, generator=generator) for n in (3, 9))
    v = torch.randn(*leading, 9, 2, generator=generator)
    mask = torch.ones(3, 9, dtype=torch.bool).tril(3) if masked else None
    dual = DualModel.from_attention(q, k, v, 6, mask=mask)
    features = PositiveRandomFeatures(n_features, orthogonal, seed)
    w = features.directions(5)
    phi_q, phi_k = ((x * 5**-0.25 @ w.mT - x.square().sum(-1, keepdim=True) * 5**-0.5 / 2).exp() for x in (q, k))
    values = phi_q @ phi_k.mT
    values = values if mask is None else values * mask
    expected = values / values.sum(-1, keepdim=True) @ v
    training = dual.explicit(features).train(order="sequential")
    assert torch.allclose(training.prediction, expected, rtol=1e-11, atol=1e-12)
    assert training.trajectory_same_features[..., -1].max() < 1e-12


def test_the_output_converges_to_softmax_attention_at_a_moderate_scale():
    # d = 64, logits of standard deviation 0.5: MSE falls as 1/n_features.
    errors = [mean_squared(n, d=64, n_key=64, size=0.25, n_draws=10) for n in (64, 256, 1024, 4096)]
    for few, many in pairwise(errors):
        assert 2.5 < few / many < 6.5, errors


def test_the_output_does_not_converge_at_the_size_of_real_heads():
    # d = 64 and unit entries: the variance grows as exp(‖x + y‖²/√d), out of reach of any number of features.
    few, many = (mean_squared(n, d=64, n_key=64, size=1.0, n_draws=10) for n in (64, 4096))
    assert many > 0.3 * few
    v = torch.cat([draw(seed, 64, 64)[2] for seed in range(10)])
    assert many > 0.3 * v.square().mean() / 64**0.5


@pytest.mark.parametrize(
    ("orthogonal", "sheet"),
    [
        (False, {10: 9e-2, 100: 7e-2, 1000: 2e-2, 10_000: 6e-3}),
        (True, {10: 1.1e-1, 100: 5.6e-2, 1000: 3.5e-2, 10_000: 4.5e-3}),
    ],
)
def test_the_sizes_of_the_error_are_those_of_the_fact_sheet(orthogonal, sheet):
    # Its data are unknown but for d = 11, N = 15 and 50 seeds: standard normal tokens stand in for them.
    for n_features, expected in sheet.items():
        found = mean_squared(n_features, d=11, n_key=15, size=1.0, orthogonal=orthogonal, n_draws=50)
        assert expected / 3 < found < expected * 3, (n_features, found, expected)


def test_large_norms_neither_overflow_nor_lose_the_prediction():
    q, k, v = draw(0, 20, 8, size=8.0)
    features = PositiveRandomFeatures(64)
    phi, log_scale = features.features(k, SoftmaxKernel(1.0))
    assert phi.isfinite().all()
    assert log_scale.isfinite().all()
    assert log_scale.min() < -100
    dual = DualModel.from_attention(q, k, v, 10)
    assert dual.explicit(features).predict().isfinite().all()


def test_gradients_flow_through():
    q, k, v = (x.requires_grad_() for x in draw(1, 6, 3, size=0.5))
    features = PositiveRandomFeatures(32, seed=2)

    def output(q, k, v):
        return DualModel.from_attention(q, k, v, 4).explicit(features).predict()

    assert torch.autograd.gradcheck(output, (q, k, v))


def test_mistakes_are_named():
    with pytest.raises(UserError, match="softmax and the Gaussian kernel, not for LinearKernel"):
        PositiveRandomFeatures().features(torch.randn(2, 3), LinearKernel())
    with pytest.raises(UserError, match="n_features=0"):
        PositiveRandomFeatures(0)
