"""Weight decay: the fused pass, the block-by-block one and the matrix agree, with their gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attention.references import weight_decay_attention_naive

from iclens.attention import softmax_attention, weight_decay_attention, weight_decay_fused
from iclens.attention.attending import Attending
from iclens.attention.scaled_dot_product import weights_naive
from iclens.attention.self_weights import self_weights


def tensors(n_query=7, n_key=9, d_v=8):
    return torch.randn(2, 4, n_query, 8), torch.randn(2, 2, n_key, 8), torch.randn(2, 2, n_key, d_v)


def masks(n_query, n_key, seed):
    draw = torch.Generator().manual_seed(seed)
    whole = torch.rand(2, 1, n_query, n_key, generator=draw) < 0.6
    whole[:, :, n_query // 2] = False
    return {"none": None, "of queries": whole, "of keys": whole[:, :, :1], "of heads": whole.expand(2, 4, -1, -1)}


def with_gradients(function, q, k, v, alpha, cotangent, **how):
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    if isinstance(alpha, torch.Tensor):
        leaves.append(alpha.clone().requires_grad_())
        alpha = leaves[-1]
    out = function(*leaves[:3], alpha=alpha, **how)
    return [out, *torch.autograd.grad(out, leaves, cotangent.expand(out.shape))]


@settings(deadline=None, max_examples=25)
@given(
    n_query=st.integers(1, 40),
    n_before=st.integers(0, 9),
    masked=st.sampled_from(["none", "of queries", "of keys", "of heads"]),
    is_causal=st.booleans(),
    learned=st.booleans(),
    d_v=st.sampled_from([8, 5]),
    seed=st.integers(0, 9),
)
def test_it_is_the_matrix_with_a_smaller_diagonal(n_query, n_before, masked, is_causal, learned, d_v, seed):
    torch.manual_seed(seed)
    q, k, v = tensors(n_query, n_query + n_before, d_v)
    alpha = torch.tensor([0.5, -0.3, 1.0, 0.0]) if learned else 0.7
    how = {"mask": masks(n_query, n_query + n_before, seed)[masked], "is_causal": is_causal, "scale": 0.4}
    # The kernel takes values as wide as keys; others go block by block.
    assert weight_decay_fused.fits(q, k, v, alpha) == (d_v == 8)
    # Summing gives a cotangent without strides.
    for cotangent in (torch.ones(()), torch.randn(d_v)):
        found, expected = (
            with_gradients(function, q, k, v, alpha, cotangent, **how)
            for function in (weight_decay_attention, weight_decay_attention_naive)
        )
        for actual, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9)


def test_any_strides_and_shared_keys():
    q, k, v = torch.randn(2, 4, 8, 7).mT, torch.randn(2, 8, 9).mT, torch.randn(3, 1, 2, 9, 8)
    found = weight_decay_attention(q, k, v, alpha=0.4, is_causal=True)
    assert found.shape == (3, 2, 4, 7, 8)
    torch.testing.assert_close(found, weight_decay_attention_naive(q, k, v, alpha=0.4, is_causal=True))


def test_strengths_stack_runs():
    q, k, v = tensors()
    alphas = torch.tensor([0.0, 0.3, -0.5]).view(3, 1, 1)
    stacked = weight_decay_attention(q, k, v, alpha=alphas)
    for run, alpha in enumerate((0.0, 0.3, -0.5)):
        torch.testing.assert_close(stacked[run], weight_decay_attention(q, k, v, alpha=alpha))


@pytest.mark.parametrize("alpha", [0.6, torch.tensor([0.1, 0.2, -0.3, 0.4]), torch.tensor([[[0.5]], [[1.5]]])])
def test_demonstrations_of_ones_own(alpha):
    """By the linearity of attention in its values: what is no demonstration, alone and scaled."""
    q, k, v = tensors()
    demonstrations = torch.arange(9) < 6
    strength = alpha[..., None, None] if isinstance(alpha, torch.Tensor) else alpha
    expected = softmax_attention(q, k, v) - strength * softmax_attention(q, k, v * ~demonstrations[:, None])
    for function in (weight_decay_attention, weight_decay_attention_naive):
        torch.testing.assert_close(function(q, k, v, alpha=alpha, demonstrations=demonstrations), expected)


@pytest.mark.parametrize("masked", ["none", "of queries", "of keys"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_self_weights_are_the_diagonal(masked, is_causal):
    q, k, v = tensors(40, 44)
    attending = Attending.of(q, k, v, masks(40, 44, 1)[masked], is_causal=is_causal)
    found = []
    for function in (partial(self_weights, most_scores=64), lambda *given: weights_naive(*given).diagonal(4, -2, -1)):
        leaves = [x.clone().requires_grad_() for x in (q, k)]
        out = function(*leaves, attending)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_is_the_batch():
    q, k, v = tensors()
    mapped = torch.vmap(lambda *given: weight_decay_attention(*given, alpha=0.3, is_causal=True))(q, k, v)
    torch.testing.assert_close(mapped, weight_decay_attention(q, k, v, alpha=0.3, is_causal=True))


@pytest.mark.parametrize("learned", [False, True])
def test_half_precision_keeps_the_self_weight_precise(learned):
    alpha = torch.tensor([0.5, -0.3, 1.0, 0.0]) if learned else 0.5
    given = [x.bfloat16() for x in tensors(33, 33)]
    exact = with_gradients(weight_decay_attention_naive, *(x.double() for x in given), alpha, torch.ones(()))
    alpha = alpha.bfloat16() if learned else alpha
    found = with_gradients(weight_decay_attention, *given, alpha, torch.ones((), dtype=torch.bfloat16))
    for actual, expected in zip(found, exact, strict=True):
        assert actual.dtype == torch.bfloat16
        error = (actual.double() - expected).abs().max()
        assert error <= 4 * torch.finfo(torch.bfloat16).eps * expected.abs().max()
