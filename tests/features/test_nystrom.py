"""Nyström features: exact where a landmark is, a projection elsewhere."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens import DualModel, UserError
from iclens.features import Nystrom
from iclens.features.correlation import correlation
from iclens.kernels import GaussianKernel, LinearKernel, SoftmaxKernel


def draw(seed, n_key, d, *, n_query=3, leading=(), size=1.0):
    generator = torch.Generator().manual_seed(seed)
    q, k = (size * torch.randn(*leading, n, d, generator=generator) for n in (n_query, n_key))
    return q, k, torch.randn(*leading, n_key, 4, generator=generator)


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    n_key=st.integers(1, 60),
    d=st.integers(2, 64),
    kernel=st.sampled_from(["softmax", "linear", "gaussian"]),
    leading=st.sampled_from([(), (2,)]),
)
def test_exact_when_all_keys_are_landmarks(seed, n_key, d, kernel, leading):
    q, k, v = draw(seed, n_key, d, leading=leading)
    if n_key > 2:
        # A repeated landmark makes the landmarks' Gram matrix singular.
        k[..., 1, :] = k[..., 0, :]
    dual = DualModel.from_attention(q, k, v, 1, kernel=kernel)
    training = dual.explicit(Nystrom(n_key)).train()
    assert relative(training.prediction, dual.predict()) <= 1e-6
    everything = Nystrom(landmarks=torch.cat([q, k], -2))
    assert relative(dual.explicit(everything).train().prediction, dual.predict()) <= 1e-9


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), n_landmarks=st.integers(1, 12), d=st.integers(1, 8))
def test_features_are_projections_on_the_landmarks(seed, n_landmarks, d):
    q, k, _ = draw(seed, 12, d, size=0.7)
    kernel = SoftmaxKernel(1.0)
    nystrom = Nystrom(n_landmarks, seed=seed)
    landmarks = nystrom.choose(k)
    assert landmarks.shape == (n_landmarks, d)
    # Drawn from the keys, each once.
    assert torch.equal((landmarks[:, None] == k).all(-1).sum(-1), torch.ones(n_landmarks, dtype=torch.int64))
    assert landmarks.unique(dim=0).shape[0] == n_landmarks
    pair = nystrom.pair(q, k, kernel)
    inner = pair.phi_k[0] @ pair.phi_k[0].mT
    truth = correlation(kernel, k, k)
    # A projection shortens, so that what is left out is positive semi-definite.
    assert torch.linalg.eigvalsh(truth - inner).min() >= -1e-7
    is_landmark = (k[:, None] == landmarks).all(-1).any(-1)
    assert (inner - truth)[is_landmark].abs().max() <= 1e-7


def test_more_landmarks_are_closer():
    errors = []
    for n_landmarks in (2, 8, 32, 64):
        squared = []
        for seed in range(20):
            q, k, v = draw(seed, 64, 4, size=0.5)
            dual = DualModel.from_attention(q, k, v, 64)
            squared.append((dual.explicit(Nystrom(n_landmarks, seed=seed)).predict() - dual.predict()).square().mean())
        errors.append(torch.stack(squared).mean().item())
    assert all(many < few / 3 for few, many in pairwise(errors)), errors


def test_training_equals_attention_with_the_same_features():
    q, k, v = draw(5, 20, 6, leading=(2,), size=0.5)
    kernel = GaussianKernel(0.8)
    nystrom = Nystrom(7, seed=1)
    z = nystrom.choose(k)
    c_zz, c_qz, c_kz = (kernel.log(x, z).value for x in (z, q, k))
    values = c_qz @ torch.linalg.solve(c_zz, c_kz.mT)
    expected = values / values.sum(-1, keepdim=True) @ v
    training = DualModel.from_attention(q, k, v, 12, kernel=kernel).explicit(nystrom).train(steps=3)
    assert relative(training.prediction, expected) <= 1e-9
    assert training.trajectory_same_features[..., -1].max() < 1e-11


def test_large_norms_stay_in_log_space():
    q, k, _ = draw(0, 30, 16, size=10.0)
    kernel = SoftmaxKernel(1.0)
    assert kernel.log_diagonal(k).max() > 1500
    pair = Nystrom(30).pair(q, k, kernel)
    assert pair.phi_q.isfinite().all()
    assert relative(pair.phi_k[0] @ pair.phi_k[0].mT, correlation(kernel, k, k)) <= 1e-12
    assert torch.allclose(pair.log_scale_k, k.square().sum(-1) / 2)


def test_the_choice_depends_on_the_seed_alone_and_a_tolerance_drops_directions():
    _, k, _ = draw(1, 40, 3)
    assert torch.equal(Nystrom(5, seed=3).choose(k), Nystrom(5, seed=3).choose(k))
    assert not torch.equal(Nystrom(5, seed=3).choose(k), Nystrom(5, seed=4).choose(k))
    assert torch.equal(Nystrom(99).choose(k), k)
    ranks = [
        torch.linalg.matrix_rank(Nystrom(40, tolerance=tolerance).pair(k, k, LinearKernel()).phi_q).item()
        for tolerance in (None, 0.999)
    ]
    assert ranks == [3, 1]


def test_mistakes_are_named():
    q, k, v = draw(0, 5, 3)
    dual = DualModel.from_attention(q, k, v, 2)
    with pytest.raises(UserError, match=r"landmarks has shape \(2, 4\), but the keys have width 3"):
        dual.explicit(Nystrom(landmarks=torch.randn(2, 4)))
    with pytest.raises(UserError, match="n_landmarks=0"):
        Nystrom(0)
