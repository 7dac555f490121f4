"""Duals that are trained further: what their optimizers leave is what a loop, a solve or an estimator gives."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens import DualModel
from iclens.attention import (
    build,
    delta_rule_attention,
    hebbian_attention,
    kernel_ridge_attention,
    linear_attention,
    momentum_attention,
    negative_attention,
    preconditioned_attention,
    regularized_attention,
    softmax_attention,
    weight_decay_attention,
)
from iclens.dual import Counterfactual
from iclens.errors import UserError
from iclens.estimators import build_estimator
from iclens.features import JointMercer
from iclens.kernels import SoftmaxKernel

SCALE = 0.4
STRONG = {
    "kernel-ridge": partial(kernel_ridge_attention, strength=0.9),
    "preconditioned": partial(preconditioned_attention, rate=0.8),
    "delta-rule": partial(delta_rule_attention, rate=0.8),
    "momentum": partial(momentum_attention, momentum=0.7),
    "mirrored": partial(momentum_attention, momentum=0.7, mirrored=True),
}


def tensors(n_query=7, n_key=7, seed=0, n_kv_heads=2):
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw(2, 4, n_query, 8), draw(2, n_kv_heads, n_key, 8), draw(2, n_kv_heads, n_key, 5)


def unit_features(q, k):
    """Features of queries and keys in one basis, those of the keys divided by their lengths."""
    pair = JointMercer().pair(q, k, SoftmaxKernel(SCALE))
    phi_q, phi_k = pair.phi_q * pair.log_scale_q.exp().unsqueeze(-1), pair.phi_k.squeeze(-3)
    return phi_q, phi_k / phi_k.norm(dim=-1, keepdim=True), (phi_k.norm(dim=-1).log() + pair.log_scale_k).exp()


@pytest.mark.parametrize("n_query", [1, 3, 7])
def test_kernel_ridge_is_the_minimiser_read_at_the_softmax_weights(n_query):
    """Against the closed form of the dual's own page, once for every prefix, scaled by 1 + λ."""
    q, k, v = tensors(n_query, 7, n_kv_heads=4)
    found = kernel_ridge_attention(q, k, v, strength=0.8, scale=SCALE, is_causal=True)
    ridge = 1 / 0.8 - 1
    for row in range(n_query):
        n = 7 - n_query + row + 1
        dual = DualModel.from_attention(q[..., row : row + 1, :], k[..., :n, :], v[..., :n, :], n, scale=SCALE)
        expected = (1 + ridge) * Counterfactual.of(dual, ridge).end()
        torch.testing.assert_close(found[..., row : row + 1, :], expected)


def test_the_minimiser_has_no_gradient_left():
    """W = Σ_i u_i φ_iᵀ/(1 + λ) makes the gradient of ½ Σ ‖W φ_i − v_i‖² + (λ/2)‖W‖² zero, in explicit features."""
    q, k, v = tensors(n_kv_heads=4)
    strength, ridge = 0.8, 1 / 0.8 - 1
    variant = build("kernel-ridge", n_heads=4, d=8, d_v=5, strength=strength)
    dual = variant.dual(q, k, v, scale=SCALE)
    _, phi, _ = unit_features(q, k)
    targets = dual.start.v.squeeze(-3)
    W = (targets.mT @ phi / (1 + ridge)).requires_grad_()
    loss = (phi @ W.mT - v).square().sum() / 2 + ridge / 2 * W.square().sum()
    assert torch.autograd.grad(loss, W)[0].abs().max() < 1e-10
    after = variant.dual_loss(q, k, v, scale=SCALE).after
    torch.testing.assert_close(after[..., 0].sum(), loss.detach())


def test_it_is_the_estimator_where_queries_are_keys_of_one_length():
    """At queries that are keys, softmax weights are proportional to the kernel if all keys are equally long."""
    inputs = torch.nn.functional.normalize(torch.randn(3, 9, 4, dtype=torch.float64), dim=-1)
    labels = torch.randn(3, 9, 1, dtype=torch.float64)
    ridge = 0.3
    estimator = build_estimator("kernel-ridge", {"alpha": ridge, "kernel": "rbf", "gamma": SCALE / 2})
    points = torch.cat([inputs, inputs[:, 2:3]], -2)
    answer = estimator.prefixes(points, torch.cat([labels, labels[:, :1]], -2))[:, -1:]
    k, v = inputs.unsqueeze(-3), labels.unsqueeze(-3)
    q = k[..., 2:3, :]
    found = kernel_ridge_attention(q, k, v, strength=1 / (1 + ridge), scale=SCALE)
    normaliser = torch.exp(-SCALE / 2 * (q - k).square().sum(-1)).sum(-1)[..., None, None]
    torch.testing.assert_close(found.squeeze(-3), (1 + ridge) * answer / normaliser.squeeze(-3))


def test_without_a_ridge_every_value_is_fitted():
    """At φ_i itself the model that is trained to the end says v_i: C (C + λI)⁻¹ V → V."""
    _, k, v = tensors(n_kv_heads=4)
    dual = build("kernel-ridge", n_heads=4, d=8, d_v=5, strength=1 - 1e-8).dual(k, k, v, scale=SCALE)
    gram = torch.exp(-SCALE / 2 * torch.cdist(k, k).square())
    torch.testing.assert_close(gram @ dual.start.v.squeeze(-3), v, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["kernel-ridge", "preconditioned", "momentum"])
def test_weak_optimizers_tend_to_softmax_attention(name):
    given, weak = tensors(), {"kernel-ridge": "strength", "preconditioned": "rate", "momentum": "momentum"}[name]
    function = {
        "kernel-ridge": kernel_ridge_attention,
        "preconditioned": preconditioned_attention,
        "momentum": momentum_attention,
    }[name]
    plain = softmax_attention(*given, is_causal=True)
    distances = [
        (function(*given, is_causal=True, **{weak: size}) - plain).abs().max().item() for size in (1e-2, 1e-4, 1e-6, 0)
    ]
    assert distances[0] > distances[1] > distances[2] > distances[3] == 0
    assert distances[2] < 1e-5


def test_orthogonal_keys_leave_nothing_to_train():
    """Far apart, keys do not overlap in feature space: kernel ridge and preconditioning are softmax attention."""
    q, _, v = tensors(n_kv_heads=4)
    k = 100 * torch.eye(8, dtype=torch.float64)[:7].expand(2, 4, 7, 8)
    for function in (STRONG["kernel-ridge"], STRONG["preconditioned"]):
        torch.testing.assert_close(function(q, k, v, is_causal=True), softmax_attention(q, k, v, is_causal=True))


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_preconditioning_is_the_delta_rule_in_the_features_of_softmax(rate):
    """W_i = W_{i−1} − β (W_{i−1} φ_i − v_i) φ_iᵀ on explicit features, read through D(q) and the keys' lengths."""
    q, k, v = tensors(n_kv_heads=4)
    phi_q, phi, lengths = unit_features(q, k)
    U = torch.zeros(2, 4, 5, phi.shape[-1], dtype=torch.float64)
    W = torch.zeros_like(U)
    total = torch.zeros(2, 4, phi.shape[-1], dtype=torch.float64)
    outs = []
    for i in range(7):
        error = v[..., i, :] - (W @ phi[..., i, :, None]).squeeze(-1)
        W = W + rate * error[..., :, None] * phi[..., i, None, :]
        U = U + lengths[..., i, None, None] * error[..., :, None] * phi[..., i, None, :]
        total = total + lengths[..., i, None] * phi[..., i, :]
        outs.append((U @ phi_q[..., i, :, None]).squeeze(-1) / (total * phi_q[..., i, :]).sum(-1, keepdim=True))
    found = preconditioned_attention(q, k, v, rate=rate, scale=SCALE, is_causal=True)
    torch.testing.assert_close(found, torch.stack(outs, -2), rtol=1e-8, atol=1e-8)


def test_rate_1_is_the_triangular_preconditioner():
    """LUCID's (M ∘ exp(s K Kᵀ))⁻¹ on keys of one length r, but for its factor e^{−s r²}."""
    q, k, v = tensors(n_kv_heads=4)
    k = torch.nn.functional.normalize(k, dim=-1) * 1.5
    preconditioner = torch.linalg.inv(torch.exp(SCALE * k @ k.mT).tril()) * math.exp(SCALE * 1.5**2)
    expected = softmax_attention(q, k, preconditioner @ v, scale=SCALE, is_causal=True)
    torch.testing.assert_close(preconditioned_attention(q, k, v, scale=SCALE, is_causal=True), expected)


@pytest.mark.parametrize("n", [1, 64, 65, 150])
@pytest.mark.parametrize("rate", [0.4, 1.0, 1.7])
def test_the_delta_rule_is_its_loop(n, rate):
    q, k, v = tensors(n, n, n_kv_heads=4)
    unit = k / k.norm(dim=-1, keepdim=True)
    S, outs = torch.zeros(2, 4, 5, 8, dtype=torch.float64), []
    for i in range(n):
        error = (S @ unit[..., i, :, None]).squeeze(-1) - v[..., i, :]
        S = S - rate * error[..., :, None] * unit[..., i, None, :]
        outs.append(0.7 * (S @ q[..., i, :, None]).squeeze(-1))
    found = delta_rule_attention(q, k, v, rate=rate, scale=0.7, is_causal=True)
    torch.testing.assert_close(found, torch.stack(outs, -2))
    whole = delta_rule_attention(q, k, v, rate=rate, scale=0.7)
    torch.testing.assert_close(whole, 0.7 * q @ S.mT)


def test_the_delta_rule_of_rate_1_answers_the_last_key_with_its_value():
    _, k, v = tensors(n_kv_heads=4)
    unit = k / k.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(delta_rule_attention(unit[..., -1:, :], k, v), v[..., -1:, :])


def test_small_rates_are_the_linear_loss():
    q, k, v = tensors()
    found = delta_rule_attention(q, k, v, rate=1e-7, is_causal=True)
    torch.testing.assert_close(found, hebbian_attention(q, k, v, rate=1e-7, is_causal=True), rtol=1e-5, atol=1e-12)
    unit = k / k.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(hebbian_attention(q, k, v, rate=0.3), linear_attention(q, unit, 0.3 * v))


@pytest.mark.parametrize("momentum", [0.3, 0.9])
def test_momentum_is_its_loop(momentum):
    """M_i = μ M_{i−1} + v_i φ_iᵀ, W_i = W_{i−1} + M_i, and the same for a target of 1."""
    q, k, v = tensors(n_kv_heads=4)
    pair = JointMercer().pair(q, k, SoftmaxKernel(SCALE))
    phi = pair.phi_k.squeeze(-3) * pair.log_scale_k.exp().unsqueeze(-1)
    v_and_1 = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    M = torch.zeros(2, 4, 6, phi.shape[-1], dtype=torch.float64)
    W, outs = M, []
    for i in range(7):
        M = momentum * M + v_and_1[..., i, :, None] * phi[..., i, None, :]
        W = W + M
        outs.append((W @ pair.phi_q[..., i, :, None]).squeeze(-1))
    out = torch.stack(outs, -2)
    found = momentum_attention(q, k, v, momentum=momentum, scale=SCALE, is_causal=True)
    torch.testing.assert_close(found, out[..., :-1] / out[..., -1:], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("momentum", [0.5, 0.8, torch.tensor([0.0, 0.2, 0.5, 0.7])])
@pytest.mark.parametrize(("n_query", "n_key"), [(250, 250), (300, 420), (601, 601)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_some_queries_at_a_time_are_the_whole_matrix(momentum, n_query, n_key, dtype):
    """At lengths that the kernel is given in one and in several pieces, and behind a cache; with gradients."""
    q, k, v = (x.to(dtype) for x in tensors(n_query, n_key))
    cotangent = torch.randn(2, 4, n_query, 5, generator=torch.Generator().manual_seed(1), dtype=dtype)
    causal = torch.ones(n_query, n_key, dtype=torch.bool).tril(n_key - n_query)
    found = []
    for how in ({"is_causal": True}, {"mask": causal}):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = momentum_attention(*leaves, momentum=momentum, **how)
        found.append([out, *torch.autograd.grad(out, leaves, cotangent)])
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-10}
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, **tolerance)


def test_the_mirrored_control_has_the_same_weights_in_the_opposite_order():
    q, k, v = tensors()
    for momentum in (0.4, 0.9):
        mirrored = momentum_attention(q, k, v, momentum=momentum, mirrored=True)
        turned = momentum_attention(q, k.flip(-2), v.flip(-2), momentum=momentum)
        torch.testing.assert_close(mirrored, turned)


def masks(seed):
    causal = torch.ones(7, 7, dtype=torch.bool).tril()
    padding = torch.tensor([True, False, True, True, False, True, True])
    block = torch.arange(7) // 3
    return {
        "padding": padding.expand(1, 7),
        "causal and padding": causal & padding,
        "window": causal & ~causal.tril(-3),
        "packed": causal & (block[:, None] == block),
        "any": torch.rand(7, 7, generator=torch.Generator().manual_seed(seed)) < 0.6,
        "of heads": torch.rand(4, 7, 7, generator=torch.Generator().manual_seed(seed)) < 0.6,
    }


@pytest.mark.parametrize("name", STRONG)
@pytest.mark.parametrize("masked", list(masks(0)))
def test_every_query_is_trained_on_what_it_sees(name, masked):
    """A row under any mask is the attention of that query on its keys alone, in their order."""
    q, k, v = tensors(n_kv_heads=4)
    mask = masks(1)[masked].expand(4, 7, 7)
    found = STRONG[name](q, k, v, masks(1)[masked])
    for head in range(4):
        for row in range(7):
            seen = mask[head, row]
            one = [x[:, head : head + 1] for x in (q, k, v)]
            expected = torch.zeros(2, 1, 1, 5, dtype=torch.float64)
            if seen.any():
                expected = STRONG[name](one[0][..., row : row + 1, :], one[1][..., seen, :], one[2][..., seen, :])
            torch.testing.assert_close(found[:, head : head + 1, row : row + 1], expected)


@pytest.mark.parametrize(
    "attention",
    [
        partial(kernel_ridge_attention, strength=torch.tensor([0.3, 0.8])),
        partial(preconditioned_attention, rate=torch.tensor([0.3, 0.8])),
        partial(delta_rule_attention, rate=torch.tensor([0.3, 0.8])),
        partial(hebbian_attention, rate=torch.tensor([0.3, 0.8])),
    ],
)
def test_strengths_of_key_heads_serve_masks_of_query_heads(attention):
    """Where heads that share their keys have masks of their own; here all heads have the same one."""
    q, k, v = tensors()
    padding = masks(0)["padding"]
    of_heads = padding.expand(4, 1, 7)
    torch.testing.assert_close(attention(q, k, v, of_heads), attention(q, k, v, padding))


@pytest.mark.parametrize("name", STRONG)
@pytest.mark.parametrize("masked", [None, "causal and padding", "window"])
def test_gradients_are_those_of_finite_differences(name, masked):
    q, k, v = (x[:1, :, :5].clone().requires_grad_() for x in tensors())
    mask = None if masked is None else masks(0)[masked][:5, :5]
    assert torch.autograd.gradcheck(lambda *given: STRONG[name](*given, mask, is_causal=masked is None), (q, k, v))


@settings(deadline=None, max_examples=20)
@given(
    name=st.sampled_from(list(STRONG)), n_query=st.integers(1, 6), n_before=st.integers(0, 5), seed=st.integers(0, 9)
)
def test_a_cache_changes_nothing(name, n_query, n_before, seed):
    n = n_query + n_before
    q, k, v = tensors(n, n, seed)
    whole = STRONG[name](q, k, v, is_causal=True)
    cached = STRONG[name](q[..., n_before:, :], k, v, is_causal=True)
    torch.testing.assert_close(cached, whole[..., n_before:, :])


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", STRONG)
def test_vmap_is_the_batch(name):
    q, k, v = tensors()
    mask = masks(0)["causal and padding"].expand(2, 7, 7)
    mapped = torch.vmap(lambda *given: STRONG[name](*given))(q, k, v, mask)
    torch.testing.assert_close(mapped, STRONG[name](q, k, v, mask.unsqueeze(1)))


@pytest.mark.parametrize("of", ["kernel-ridge", "preconditioned"])
def test_the_control_has_the_mass_and_nothing_else(of):
    """Values of 1 give the same; a plain row of weights is only scaled."""
    q, k, v = tensors()
    options = {"n_heads": 4, "d": 8, "d_v": 5, "n_kv_heads": 2}
    variant, control = build(of, **options), build("mass-matched", of=of, **options)
    ones = torch.ones_like(v)
    torch.testing.assert_close(control(q, k, ones, is_causal=True), variant(q, k, ones, is_causal=True))
    out, plain = control(q, k, v, is_causal=True), softmax_attention(q, k, v, is_causal=True)
    ratio = out / plain
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio))
    assert (ratio < 1 - 1e-3).any()


def test_a_learned_strength_that_left_its_range_can_come_back():
    q, k, v = tensors()
    variant = build("kernel-ridge", n_heads=4, d=8, d_v=5, n_kv_heads=2, strength=0.9, learned=True).double()
    with torch.no_grad():
        variant.strength.fill_(1.3)
    out = variant(q, k, v)
    assert out.isfinite().all()
    gradient = torch.autograd.grad(out.square().sum(), variant.strength)[0]
    assert gradient.isfinite()
    assert gradient != 0


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (kernel_ridge_attention, {"strength": 1.0}, r"strength=1\.0 must be at least 0 .* and less than 1\."),
        (kernel_ridge_attention, {"strength": -0.1}, "strength=-0.1 must be"),
        (momentum_attention, {"momentum": 1.0}, r"momentum=1\.0 must be at least 0 .* and less than 1"),
        (preconditioned_attention, {"rate": math.nan}, "rate=nan must be finite"),
        (delta_rule_attention, {"rate": math.inf}, "rate=inf must be finite"),
        (hebbian_attention, {"rate": math.inf}, "rate=inf must be finite"),
        (kernel_ridge_attention, {"strength": torch.ones(3) / 2}, "strength has 3 entries; .* each of 2 heads"),
        (momentum_attention, {"momentum": torch.ones(2) / 2}, "momentum has 2 entries; .* each of 4 heads"),
        (preconditioned_attention, {"rate": torch.ones(4)}, "rate has 4 entries; .* each of 2 heads"),
        (delta_rule_attention, {"rate": torch.ones(4)}, "rate has 4 entries"),
        (hebbian_attention, {"rate": torch.ones(5, 4)}, "rate has 4 entries"),
        (regularized_attention, {"alpha": torch.ones(3)}, "alpha has 3 entries; .* each of 4 heads"),
        (weight_decay_attention, {"alpha": torch.ones(3)}, "alpha has 3 entries"),
        (negative_attention, {"beta": torch.ones(2)}, "beta has 2 entries; .* each of 4 heads"),
        (negative_attention, {"beta": torch.ones(4), "selection": "key"}, "beta has 4 entries; .* each of 2 heads"),
    ],
)
def test_bad_strengths_are_refused(function, options, message):
    with pytest.raises(UserError, match=message):
        function(*tensors(), **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kernel-ridge", {"strength": [0.5, 1.5]}, "less than 1"),
        ("momentum", {"momentum": [0.5, -1.0]}, "less than 1"),
        pytest.param(
            "kernel-ridge", {"strength": "0.5"}, "strength='0.5' must be a number", marks=pytest.mark.wrong_types
        ),
        ("preconditioned", {"rate": [0.5, 0.5, 0.5]}, "rate has 3 entries"),
        ("mass-matched", {"of": "softmax"}, "of='softmax' has no mass to match"),
        ("mass-matched", {"of": "delta-rule"}, "of='delta-rule' does not read with softmax weights"),
        ("mass-matched", {"of": "kernel-rige"}, "unknown attention variant 'kernel-rige'"),
        ("composed", {"parts": [{"name": "kernel-ridge"}]}, "is not a modification of softmax attention"),
    ],
)
def test_modules_refuse_them_too(name, options, message):
    with pytest.raises(UserError, match=message):
        build(name, n_heads=4, d=8, d_v=5, n_kv_heads=2, **options)
