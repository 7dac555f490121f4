"""Weights written by hand are gradient descent: exactly, or in a limit."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.models.bare_attention import LinearSelfAttention
from iclens.models.constructions import debiased_gradient_step, gradient_step
from iclens.tasks.task import build_task
from iclens.training.config import RunConfig
from iclens.training.ensemble import Ensemble


@given(
    d=st.integers(1, 4), d_y=st.integers(1, 3), n=st.integers(1, 6), rate=st.floats(0.01, 3), seed=st.integers(0, 2**31)
)
@settings(max_examples=20, deadline=None)
def test_a_linear_head_is_one_gradient_step(d, d_y, n, rate, seed):
    """The step by autograd, from W = 0 on (1/2N) Σ ‖W x_i − y_i‖²."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2, n + 1, d, generator=generator)
    labels = torch.randn(2, n + 1, d_y, generator=generator)
    answers = gradient_step(d, d_y, n, rate)(inputs.unsqueeze(0), labels.unsqueeze(0))
    for x, y, answer in zip(inputs, labels, answers[0], strict=True):
        weight = torch.zeros(d_y, d, requires_grad=True)
        ((x[:-1] @ weight.T - y[:-1]).square().sum() / (2 * n)).backward()
        torch.testing.assert_close(answer[0], -rate * weight.grad @ x[-1], rtol=1e-10, atol=1e-10)


def debiased(inputs, labels, rate):
    x, y = inputs[:, :-1], labels[:, :-1]
    centred = x - x.mean(1, keepdim=True)
    return rate / x.shape[1] * (y.mT @ (centred @ inputs[:, -1, :, None]))[..., 0]


@pytest.mark.parametrize("d_y", [1, 2])
def test_two_softmax_heads_tend_to_a_debiased_gradient_step(d_y):
    """With η = 2μω fixed the error falls like ω²: the next term of an odd function of ω."""
    inputs, labels = torch.randn(50, 11, 3), torch.randn(50, 11, d_y)
    errors = []
    for omega in (0.08, 0.04, 0.02, 0.01):
        model = debiased_gradient_step(3, d_y, omega, 1.5 / (2 * omega))
        answers = model(inputs.unsqueeze(0), labels.unsqueeze(0))[0, :, 0]
        errors.append((answers - debiased(inputs, labels, 1.5)).square().mean().sqrt().item())
    for larger, smaller in itertools.pairwise(errors):
        assert larger / smaller == pytest.approx(4, rel=0.1)
    assert errors[-1] < 1e-3


def risk_of(model, a, n_prompts=40_000):
    """Mean and standard error of the squared error at x ~ U(−a, a)^10, w ~ N(0, I), N = 10, without noise."""
    task = build_task("linear", d=10, inputs="uniform", input_scale=a)
    prompt = task.sample(torch.Generator().manual_seed(7), n_prompts, 10)
    with torch.no_grad():
        answers = model(prompt.inputs.unsqueeze(0), prompt.labels.unsqueeze(0))[0, :, 0]
    errors = (answers - prompt.target).square().sum(-1)
    return errors.mean().item(), errors.std().item() / n_prompts**0.5


@pytest.mark.parametrize(("a", "rate", "expected"), [(1.0, 1.515, 1.6498), (0.5, 6.061, 0.4125)])
def test_the_risk_of_the_best_step(a, rate, expected):
    """The numbers of von Oswald et al.'s setting, N = d = 10, by Monte Carlo."""
    best, error = risk_of(gradient_step(10, 1, 10, rate), a)
    assert best == pytest.approx(expected, abs=4 * error)
    assert 4 * error < 0.04 * expected
    for other in (0.8, 1.2):
        assert risk_of(gradient_step(10, 1, 10, other * rate), a)[0] > best


def test_training_finds_the_best_step():
    """A linear head trained on the setting of von Oswald et al. has its risk, and is a multiple of its weights."""
    config = RunConfig.from_dict(
        {
            "task": {"name": "linear", "d": 10, "inputs": "uniform"},
            "model": {"name": "linear-attention"},
            "training": {
                "loss": "query",
                "n_context": 10,
                "batch": 512,
                "steps": 400,
                "learning_rate": 0.02,
                "schedule": "cosine",
                "clip": 1.0,
                "evaluate_every": 0,
            },
        }
    )
    ensemble = Ensemble([config])
    for _ in range(400):
        ensemble.step()
    model = ensemble.alone(0).double()
    found, error = risk_of(model, 1.0)
    assert 1.6498 - 4 * error < found < 1.02 * 1.6498
    trained = _map_of(model)
    best = _map_of(gradient_step(10, 1, 10, 1.515))
    cosine = (trained * best).sum() / trained.norm() / best.norm()
    assert cosine > 0.98


def _map_of(model: LinearSelfAttention):
    """What the head makes of Σ_i y_i x_i: the bilinear map W_Q W_Kᵀ, times how a label becomes an answer."""
    own = dict(model.named_parameters())
    q, k, v = own["blocks.0.qkv.weight"][0].detach().chunk(3, 1)
    out = own["blocks.0.out.weight"][0].detach()
    return (q @ k.mT)[:10, :10] * (v @ out)[10, 10]


def test_a_step_of_rate_zero_answers_zero():
    inputs, labels = torch.randn(1, 3, 4, 2), torch.randn(1, 3, 4, 1)
    assert not gradient_step(2, 1, 3, 0.0)(inputs, labels).any()
    assert not debiased_gradient_step(2, 1, 0.1, 0.0)(inputs, labels).any()
