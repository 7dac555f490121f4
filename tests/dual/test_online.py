"""Causal attention as online gradient descent: agreement with attention, with autograd, and with itself in pieces."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from iclens import UserError
from iclens.dual.online import online_attention, online_from_features
from iclens.features import FeaturePair, JointMercer, Mercer, PositiveRandomFeatures, TaylorFeatures
from iclens.kernels import GaussianKernel, SoftmaxKernel

TOLERANCE = 1e-12


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-300)).item()


def tokens(seed, *leading, n, d, d_v, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(*leading, n, d, generator=generator) * size for _ in range(2))
    return q, k, torch.randn(*leading, n, d_v, generator=generator)


def attention_with(features, kernel, q, k, v):
    """Causal attention from the n × n matrix φ(q)ᵀφ(k), in plain numbers."""
    pair = features.pair(q, k, kernel)
    phi_q = pair.phi_q * pair.log_scale_q.exp().unsqueeze(-1)
    phi_k = pair.phi_k.squeeze(-3) * pair.log_scale_k.exp().unsqueeze(-1)
    values = (phi_q @ phi_k.mT).tril()
    return (values @ v) / values.sum(-1, keepdim=True)


def pieces(pair, start, stop):
    piece = slice(start, stop)
    return FeaturePair(
        pair.phi_q[..., piece, :],
        pair.phi_k[..., piece, :],
        pair.log_scale_q[..., piece],
        pair.log_scale_k[..., piece],
        pair.inner_error,
    )


shapes = {
    "seed": st.integers(0, 2**31),
    "n": st.integers(1, 30),
    "d": st.integers(1, 6),
    "d_v": st.integers(1, 5),
    "chunk_size": st.integers(1, 40),
    "leading": st.sampled_from([(), (2,), (2, 3)]),
}


@settings(deadline=None, max_examples=25)
@given(**shapes, order=st.sampled_from([2, 4]), orthogonal=st.booleans(), n_features=st.integers(1, 40))
def test_equals_causal_attention_with_the_same_features(
    seed, n, d, d_v, chunk_size, leading, order, orthogonal, n_features
):
    q, k, v = tokens(seed, *leading, n=n, d=d, d_v=d_v)
    kernel = SoftmaxKernel(d**-0.5)
    for features in (TaylorFeatures(order), PositiveRandomFeatures(n_features, orthogonal)):
        run = online_attention(q, k, v, features, chunk_size=chunk_size)
        # With one feature D_t is one product of positive numbers; nothing cancels in positive features.
        error = ((run.outputs - attention_with(features, kernel, q, k, v)).abs().max() / v.abs().max()).item()
        assert error <= (1e-9 if isinstance(features, TaylorFeatures) else TOLERANCE)


@settings(deadline=None, max_examples=25)
@given(**shapes, size=st.sampled_from([0.1, 0.5, 1.0]))
def test_equals_causal_softmax_attention_as_precisely_as_it_says(seed, n, d, d_v, chunk_size, leading, size):
    q, k, v = tokens(seed, *leading, n=n, d=d, d_v=d_v, size=size)
    run = online_attention(q, k, v, chunk_size=chunk_size)
    expected = scaled_dot_product_attention(q, k, v, is_causal=True)
    error = (run.outputs - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert (error <= run.precision + 1e-15).all()


def test_equals_causal_softmax_attention_to_rounding_at_moderate_scores():
    q, k, v = tokens(0, 2, 3, n=60, d=8, d_v=5, size=0.6)
    expected = scaled_dot_product_attention(q, k, v, is_causal=True)
    assert relative(online_attention(q, k, v).outputs, expected) <= TOLERANCE
    # Beyond its reach it says so: the estimate leaves the range where the equality is claimed.
    q, k, v = tokens(0, n=60, d=8, d_v=5, size=2.0)
    run = online_attention(q, k, v)
    assert run.precision.max() > 1e-8


@settings(deadline=None, max_examples=25)
@given(**shapes, scale=st.sampled_from([None, 0.3]))
def test_linear_attention_is_the_identity_feature_without_a_normaliser(seed, n, d, d_v, chunk_size, leading, scale):
    q, k, v = tokens(seed, *leading, n=n, d=d, d_v=d_v)
    run = online_attention(q, k, v, kernel="linear", scale=scale, chunk_size=chunk_size)
    scores = (q @ k.mT).tril() * (1 if scale is None else scale)
    # Products of a score may cancel, so that their sizes bound the rounding, not the score's.
    sizes = (q.abs() @ k.abs().mT).tril() * (1 if scale is None else scale)
    assert ((run.outputs - scores @ v).abs() <= TOLERANCE * (sizes @ v.abs())).all()


@pytest.mark.parametrize("normalizes", [True, False])
def test_the_state_is_what_gradient_descent_on_each_token_gives(normalizes):
    q, k, v = tokens(3, n=7, d=3, d_v=2)
    kernel, learning_rate = SoftmaxKernel(0.5), 0.37
    pair = TaylorFeatures(2).pair(q, k, kernel)
    run = online_from_features(pair, v, normalizes=normalizes, chunk_size=3)
    phi_k = pair.phi_k.squeeze(-3) * pair.log_scale_k.exp().unsqueeze(-1)
    phi_q = pair.phi_q * pair.log_scale_q.exp().unsqueeze(-1)
    # The targets (v, 1): the last row of the weights is z.
    targets = torch.cat([v, torch.ones(7, 1)], -1)
    U = torch.zeros(3, phi_k.shape[-1], requires_grad=True)
    for t in range(7):
        loss = -(targets[t] @ U @ phi_k[t]) / learning_rate
        (gradient,) = torch.autograd.grad(loss, U)
        U = (U - learning_rate * gradient).detach().requires_grad_()
        prediction = U @ phi_q[t]
        expected = prediction[:-1] / prediction[-1] if normalizes else prediction[:-1]
        assert relative(run.outputs[t], expected) <= TOLERANCE
    unit = run.state.log_scale.exp()
    assert relative(run.state.U * unit, U[:-1]) <= TOLERANCE
    assert relative(run.state.z * unit, U[-1]) <= TOLERANCE


@settings(deadline=None, max_examples=30)
@given(**shapes, cut=st.integers(1, 29), kernel=st.sampled_from(["softmax", "linear"]))
def test_a_prompt_in_two_pieces_equals_one(seed, n, d, d_v, chunk_size, leading, cut, kernel):
    n = n + 1
    cut = min(cut, n - 1)
    q, k, v = tokens(seed, *leading, n=n, d=d, d_v=d_v)
    features = PositiveRandomFeatures(20) if kernel == "softmax" else None
    whole = online_attention(q, k, v, features, kernel=kernel, chunk_size=chunk_size)
    first = online_attention(*(x[..., :cut, :] for x in (q, k, v)), features, kernel=kernel, chunk_size=chunk_size)
    second = online_attention(*(x[..., cut:, :] for x in (q, k, v)), features, kernel=kernel, state=first.state)
    found = torch.cat([first.outputs, second.outputs], -2)
    size = max(1.0, whole.precision.max().item() / torch.finfo(v.dtype).eps)
    assert relative(found, whole.outputs) <= 1e-14 * size
    for name in ("U", "z", "magnitude", "length", "log_scale"):
        a, b = getattr(second.state, name), getattr(whole.state, name)
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_mercer_features_continue_by_slices():
    q, k, v = tokens(1, 2, n=24, d=4, d_v=3, size=0.5)
    pair = JointMercer().pair(q, k, SoftmaxKernel(0.5))
    whole = online_from_features(pair, v)
    first = online_from_features(pieces(pair, 0, 10), v[:, :10])
    second = online_from_features(pieces(pair, 10, 24), v[:, 10:], state=first.state)
    assert relative(torch.cat([first.outputs, second.outputs], -2), whole.outputs) <= TOLERANCE
    # Beside an independent route, so that both halves cannot be wrong alike.
    expected = scaled_dot_product_attention(q, k, v, is_causal=True)
    assert relative(second.outputs, expected[:, 10:]) <= TOLERANCE


@pytest.mark.parametrize("chunk_size", [1, 4, 64])
def test_key_norms_whose_exponentials_overflow_do_no_harm(chunk_size):
    # Scores up to two million: every exponential overflows, and every token sees its own key alone. Later keys are
    # larger, so one reference for a whole chunk would send the sums of the tokens before them to zero.
    n = 9
    k, v = torch.eye(n) * torch.linspace(900, 1500, n).unsqueeze(-1), torch.randn(n, 3)
    run = online_attention(k, k, v, scale=1.0, chunk_size=chunk_size)
    assert relative(run.outputs, v) <= TOLERANCE
    # A large early key far from the query is beyond one basis for all tokens: refused, not wrong.
    with pytest.raises(UserError, match="not positive at token 1"):
        online_attention(k.flip(0), k.flip(0), v, scale=1.0, chunk_size=chunk_size)


def test_a_gaussian_kernel_and_grouped_heads():
    q, k, v = tokens(2, 4, n=12, d=3, d_v=2)
    kernel = GaussianKernel(0.5)
    weights = (-0.25 * torch.cdist(q, k).square()).masked_fill(~torch.ones(12, 12).tril().bool(), -torch.inf)
    run = online_attention(q, k, v, kernel=kernel)
    assert relative(run.outputs, weights.softmax(-1) @ v) <= 1e-10
    grouped = online_attention(q, k[:2], v[:2], PositiveRandomFeatures(30))
    repeated = online_attention(
        q, k[:2].repeat_interleave(2, 0), v[:2].repeat_interleave(2, 0), PositiveRandomFeatures(30)
    )
    assert torch.equal(grouped.outputs, repeated.outputs)


def test_gradients_do_not_depend_on_the_chunks():
    q, k, v = tokens(4, n=11, d=3, d_v=2)
    wanted = []
    for chunk_size in (1, 4, 11):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        output = online_attention(*inputs, PositiveRandomFeatures(50), chunk_size=chunk_size).outputs
        wanted.append(torch.autograd.grad(output.square().sum(), inputs))
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    naive = attention_with(PositiveRandomFeatures(50), SoftmaxKernel(3**-0.5), *inputs)
    expected = torch.autograd.grad(naive.square().sum(), inputs)
    for gradients in wanted:
        for found, reference in zip(gradients, expected, strict=True):
            assert relative(found, reference) <= 1e-11


def test_bad_input_is_named():
    q, k, v = tokens(0, n=5, d=3, d_v=2)
    with pytest.raises(UserError, match="one key for each query"):
        online_attention(q[:4], k, v)
    with pytest.raises(UserError, match="a basis for each query"):
        online_attention(q, k, v, Mercer())
    with pytest.raises(UserError, match="must be at least 1"):
        online_attention(q, k, v, chunk_size=0)
    run = online_attention(q, k, v, "positive-random")
    with pytest.raises(UserError, match="depend on all tokens"):
        online_attention(q, k, v, "mercer-joint", state=run.state)
    with pytest.raises(UserError, match="the state's U has shape"):
        online_attention(q, k, v, PositiveRandomFeatures(7), state=run.state)
    with pytest.raises(UserError, match="not positive at token"):
        online_attention(5 * q, -5 * q, v, TaylorFeatures(1))
    pair = PositiveRandomFeatures(7).pair(q, k, SoftmaxKernel(1.0))
    with pytest.raises(UserError, match="numbers must agree"):
        online_from_features(pair, v[:3])
