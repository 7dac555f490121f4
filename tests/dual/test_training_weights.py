"""Training weights: attention with log-weights, repetition and knock-out, and the closed forms of their derivatives."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from iclens import DualModel, UserError
from iclens.bounds import generalization_bounds, measured_gap, rademacher_complexity
from iclens.dual import ExplicitDual, gradient_descent, one_step_head
from iclens.kernels import SoftcappedKernel

KERNELS = {
    "softmax": "softmax",
    "gaussian": "gaussian",
    "linear": "linear",
    "softcapped": SoftcappedKernel(0.5, 1.5),
}


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-300)).item()


def close(found, expected, size):
    """To rounding, against the size of what is summed."""
    assert (found - expected).abs().max().item() <= 1e-12 * float(size)


@st.composite
def cases(draw, kernels=tuple(KERNELS)):
    """q, k, v with free leading axes, grouped demonstrations, perhaps a mask, and positive training weights."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    leading = draw(st.sampled_from([(), (2,), (2, 3)]))
    n_query, n_key, d, d_v = (draw(st.integers(1, most)) for most in (4, 9, 6, 4))
    n_key += 2
    q, k = (torch.randn(*leading, n, d, generator=generator, dtype=torch.float64) for n in (n_query, n_key))
    v = torch.randn(*leading, n_key, d_v, generator=generator, dtype=torch.float64)
    # Numbered without a hole. The first key is always there to be attended to, and of no demonstration.
    ids = torch.randint(-1, draw(st.integers(1, n_key)), (n_key,), generator=generator)
    ids[0], ids[-1] = -1, ids[-1].clamp_min(0)
    ids = torch.where(ids < 0, -1, torch.searchsorted(ids[ids >= 0].unique(), ids))
    mask = torch.rand(*leading, n_query, n_key, generator=generator) < 0.7
    mask[..., 0] = True
    mask = mask if draw(st.booleans()) else None
    rows = draw(st.sampled_from([(), (1,), (n_query,)]))
    weights = torch.rand(*rows, int(ids.max()) + 1, generator=generator, dtype=torch.float64) * 3 + 0.05
    return q, k, v, ids, mask, draw(st.sampled_from(kernels)), weights


def dual_of(case, weights=None, **changes):
    q, k, v, ids, mask, kernel, own = case
    return DualModel.from_attention(
        q, k, v, ids, mask, kernel=KERNELS[kernel], training_weights=own if weights is None else weights, **changes
    )


def of_keys(weights, ids):
    """The weight of every key, 1 for those of no demonstration."""
    return torch.where(ids < 0, 1.0, weights[..., ids.clamp_min(0)])


@settings(deadline=None, max_examples=60)
@given(cases(("softmax",)))
def test_the_prediction_is_attention_with_log_weights_added_to_the_scores(case):
    q, k, v, ids, mask, _, weights = case
    dual = dual_of(case)
    bias = of_keys(weights if weights.ndim > 1 else weights[None], ids).log()
    bias = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
    bias = bias.expand(*q.shape[:-1], k.shape[-2])
    close(dual.predict(), scaled_dot_product_attention(q, k, v, attn_mask=bias), v.abs().max())
    close(dual.initial() + dual.contributions().sum(-2), dual.predict(), v.abs().max())
    assert dual.training_weights.shape[-1] == dual.n_demonstrations


def test_grouped_queries_share_weighted_keys():
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, 4, 8, generator=generator)
    k, v = (torch.randn(2, 3, 9, width, generator=generator) for width in (8, 5))
    weights = torch.tensor([[2.0, 0.5, 0.0, 1.0], [1.0, 3.0, 1.0, 0.1]])[:, None, None]
    mask = torch.ones(4, 9, dtype=torch.bool).tril(5)
    dual = DualModel.from_attention(q, k, v, 4, mask, training_weights=weights)
    bias = torch.nn.functional.pad(weights.log(), (0, 5)).expand(2, 6, 4, 9).masked_fill(~mask, -torch.inf)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)
    assert relative(dual.predict(), expected) <= 1e-12


@settings(deadline=None, max_examples=40)
@given(cases())
def test_a_weight_of_zero_is_the_model_without_the_example(case):
    q, k, v, ids, mask, kernel, weights = case
    left_out = int(weights.argmin()) % weights.shape[-1]
    zeroed = weights.clone()
    zeroed[..., left_out] = 0
    dual, kept = dual_of(case, zeroed), ids != left_out
    close(dual.predict(), dual_of(case).without(left_out), v.abs().max())
    if int((kept & (ids >= 0)).sum()) == 0:
        return
    order = [i for i in range(weights.shape[-1]) if i != left_out]
    renamed = torch.where(ids[kept] > left_out, ids[kept] - 1, ids[kept])
    short = (q, k[..., kept, :], v[..., kept, :], renamed, None if mask is None else mask[..., kept], kernel)
    without = dual_of((*short, weights[..., order]))
    size = without.contributions().abs().sum(-2).max() + v.abs().max()
    close(dual.predict(), without.predict(), size)
    torch.testing.assert_close(dual.log_normalizer, without.log_normalizer)
    torch.testing.assert_close(dual.loss(), without.loss(), rtol=1e-9, atol=1e-11)
    assert not dual.influence()[..., left_out, :].any()
    if kernel != "softcapped":
        torch.testing.assert_close(dual.weight_norm(), without.weight_norm(), rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(cases(), st.data())
def test_whole_weights_are_repetition(case, data):
    q, k, v, ids, mask, kernel, weights = case
    times = torch.tensor(data.draw(st.lists(st.integers(1, 3), min_size=weights.shape[-1], max_size=weights.shape[-1])))
    index = torch.arange(len(ids)).repeat_interleave(of_keys(times.double(), ids).long())
    repeated = (q, k[..., index, :], v[..., index, :], ids[index], None if mask is None else mask[..., index], kernel)
    once = torch.ones(weights.shape[-1], dtype=torch.float64)
    weighted, expected = dual_of(case, times), dual_of((*repeated, once))
    size = expected.contributions().abs().sum(-2).max() + v.abs().max()
    for what in ("predict", "initial", "contributions", "weights", "influence", "shares"):
        close(getattr(weighted, what)(), getattr(expected, what)(), 10 * size)
    torch.testing.assert_close(weighted.log_normalizer, expected.log_normalizer)
    torch.testing.assert_close(weighted.loss(), expected.loss(), rtol=1e-9, atol=1e-10)
    # Cosines of vectors that all but vanish have no digits.
    for one, other in zip(weighted.alignment(), expected.alignment(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    if kernel != "softcapped":
        torch.testing.assert_close(weighted.weight_norm(), expected.weight_norm(), rtol=1e-9, atol=1e-9)


def test_weights_of_one_are_the_model_itself():
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(*shape, generator=generator) for shape in ((3, 4), (7, 4), (7, 5)))
    plain, weighted = DualModel.from_attention(q, k, v, 5), DualModel.from_attention(q, k, v, 5, training_weights=1.0)
    for what in ("predict", "contributions", "influence", "shares", "weight_norm"):
        torch.testing.assert_close(getattr(weighted, what)(), getattr(plain, what)(), rtol=0, atol=0)
    for what in ("loss", "alignment"):
        torch.testing.assert_close(getattr(weighted, what)(), getattr(plain, what)(), rtol=0, atol=0)
    assert repr(weighted) == repr(plain)[:-1] + ", with training weights)"


@settings(deadline=None, max_examples=40)
@given(cases())
def test_influence_is_the_derivative_of_the_prediction_in_the_logarithm_of_a_weight(case):
    weights = case[-1]
    n = weights.shape[-1]
    logarithms = (weights if weights.ndim > 1 else weights[None]).log().requires_grad_()
    probe = torch.randn(dual_of(case).predict().shape, generator=torch.Generator().manual_seed(0))
    (expected,) = torch.autograd.grad((dual_of(case, logarithms.exp()).predict() * probe).sum(), logarithms)
    found = dual_of(case).influence()
    assert found.shape == (*probe.shape[:-1], n, probe.shape[-1])
    along = torch.einsum("...tgv,...tv->...tg", found, probe)
    summed = along.flatten(0, -3).sum(0) if along.ndim > 2 else along
    if expected.shape[0] == 1:
        summed = summed.sum(0, keepdim=True)
    close(summed, expected, 100 * (dual_of(case).contributions().abs().sum() + 1))


@settings(deadline=None, max_examples=40)
@given(cases(("softmax", "gaussian", "softcapped")))
def test_influences_sum_to_zero_and_give_back_what_is_left_out(case):
    v, weights = case[2], case[-1]
    dual = dual_of(case)
    out, influence, a = dual.predict(), dual.influence(), dual.weights().unsqueeze(-1)
    # Over all keys: those of no demonstration take what the demonstrations give.
    others = dual.initial() - (1 - a.sum(-2)) * out
    close(influence.sum(-2) + others, torch.zeros_like(out), v.abs().max())
    for g in range(weights.shape[-1]):
        # One derivative at the model itself knows every other weight of that demonstration, zero among them.
        for factor, moved in ((0.0, dual.without(g)), (2.0, None)):
            if moved is None:
                changed = weights.clone()
                changed[..., g] *= factor
                moved = dual_of(case, changed).predict()
            shrunk = 1 + (factor - 1) * a[..., g, :]
            found = (factor - 1) * influence[..., g, :] / shrunk
            close(moved - out, found, v.abs().max() / shrunk.min())


@settings(deadline=None, max_examples=25)
@given(cases())
def test_shares_are_the_integral_of_the_influence_and_sum_to_what_all_demonstrations_change(case):
    v, weights = case[2], case[-1]
    dual = dual_of(case)
    shares = dual.shares()
    out, size = dual.predict(), dual.contributions().abs().sum(-2).max() + v.abs().max()
    close(shares.sum(-2), out - dual.without(range(dual.n_demonstrations)), size)
    # ∫₀¹ f(t)/t dt over u = log t, where a head is a logistic curve: panels with 8 nodes of Gauss–Legendre each.
    nodes, counts = (torch.tensor(x) for x in np.polynomial.legendre.leggauss(8))
    u = 1.5 * (torch.arange(-30, 0)[:, None] + (nodes + 1) / 2).flatten()
    t = u.exp().reshape(-1, *(1,) * (out.ndim - 2), 1, 1)
    slopes = dual_of(case, weights * t).influence()
    integral = torch.einsum("t,t...->...", 0.75 * counts.repeat(30), slopes)
    close(integral, shares, 1e5 * (shares.abs().max() + size))


def test_shares_keep_their_digits_at_either_end():
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(*shape, generator=generator) for shape in ((2, 4), (6, 4), (6, 3)))
    faint, strong = (DualModel.from_attention(q, k, v, 5, training_weights=w) for w in (1e-12, 1e12))
    # Next to no attention: nothing is renormalised, and each gets the slope times its weight.
    others = torch.tensor([0.0, 0, 0, 0, 0, 1]).unsqueeze(-1)
    expected = faint.weights().unsqueeze(-1) * (v[:5] - (others * v).sum(0))
    assert relative(faint.shares(), expected) <= 1e-10
    # Next to all attention: the sum stays what all of them change.
    assert relative(strong.shares().sum(-2), strong.predict() - strong.without(range(5))) <= 1e-12
    with pytest.raises(UserError, match="query 0 has no key to attend to but demonstrations"):
        DualModel.from_attention(q, k, v, 6).shares()


@settings(deadline=None, max_examples=25)
@given(cases(("softmax", "gaussian")))
def test_one_step_of_gradient_descent_on_the_weighted_loss_is_attention_with_log_weights(case):
    dual = dual_of(case)
    explicit: ExplicitDual = dual.explicit("mercer")
    for how in ({}, {"steps": 3}, {"order": "sequential"}):
        training = explicit.train(learning_rate=0.3, **how)
        torch.testing.assert_close(training.prediction, dual.predict(), rtol=1e-8, atol=1e-8)
    close(explicit.predict(), dual.predict(), 1e4 * case[2].abs().max())
    # The step lowers the loss by the square of its length over η.
    step = (training.W - training.W_0).flatten(-2).norm(dim=-1) * (-explicit.features.log_scale_q).exp()
    loss = dual.loss()
    torch.testing.assert_close(loss.before - loss.after, step**2, rtol=1e-7, atol=1e-9)


def test_the_loss_is_the_weighted_one_written_out():
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(*shape, generator=generator) for shape in ((2, 4), (7, 4), (7, 3)))
    weights = torch.tensor([2.0, 0.0, 0.3, 1.0])
    ids = torch.tensor([0, 0, 1, 2, 3, 3, -1])
    dual = DualModel.from_attention(q, k, v, ids, training_weights=weights)
    counts = of_keys(weights, ids)
    gram, D = (k @ k.T / 2).exp(), ((q @ k.T / 2).exp() * counts).sum(-1)
    assert torch.allclose(dual.log_normalizer, D.log())
    for trained_on, found in zip((counts * (ids < 0), counts), dual.loss(learning_rate=2.0), strict=True):
        f = gram @ (trained_on[:, None] * v)  # D · W φ(k_i)
        expected = -(counts * (ids >= 0) * (v * f).sum(-1)).sum() / (2.0 * D**2)
        assert relative(found, expected) <= 1e-12


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 10),
    d_x=st.integers(1, 5),
    d_y=st.integers(1, 3),
    eta=st.sampled_from([1e-3, 0.2, 1.5]),
)
def test_one_linear_head_is_one_gradient_step_on_weighted_least_squares(seed, n, d_x, d_y, eta):
    generator = torch.Generator().manual_seed(seed)
    x, y, W_0, x_test, weights = (
        torch.randn(*shape, generator=generator) for shape in ((n, d_x), (n, d_y), (d_y, d_x), (3, d_x), (n,))
    )
    weights = weights.abs()
    head = one_step_head(x, y, W_0, eta)
    dual = dataclasses.replace(head.dual(head.query(x_test)), training_weights=weights[None])
    # Σ w_i ‖W x_i − y_i‖² is the plain loss of √w_i x_i and √w_i y_i.
    root = weights.sqrt()[:, None]
    W = gradient_descent(root * x, root * y, W_0, eta)
    size = 1 + (x_test.abs() @ (W.abs() + W_0.abs()).mT).max() + dual.contributions().abs().sum(-2).max()
    close(dual.predict()[:, d_x:], -x_test @ (W - W_0).mT, size)


def test_the_closed_form_of_second_derivatives_in_two_weights():
    generator = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn(*shape, generator=generator) for shape in ((1, 4), (6, 4), (6, 3)))

    def out(logarithms):
        return DualModel.from_attention(q, k, v, 5, training_weights=logarithms.exp()).predict()[0, 0]

    dual = DualModel.from_attention(q, k, v, 5)
    a, centred = dual.weights()[0], v[:5] - dual.predict()
    expected = torch.diag(a * centred[:, 0]) - a[:, None] * a * (centred[:, None, 0] + centred[:, 0])
    hessian = torch.autograd.functional.hessian(out, torch.zeros(5))
    torch.testing.assert_close(hessian, expected)


Q, K, V = (torch.ones(*shape, dtype=torch.float64) for shape in ((2, 4), (3, 4), (3, 5)))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0, 3.0], r"shape \(3,\); it needs one weight for each of the 2 demonstrations, \(2,\)"),
        (torch.ones(3, 2), r"shape \(3, 2\)"),
        ([1.0, -0.5], "the training weight of demonstration 1 is -0.5"),
        ([float("nan"), 1.0], "the training weight of demonstration 0 is nan"),
        (float("inf"), "must be 0 or positive, and finite"),
        (torch.ones(4, 1, 2), "training_weights do not broadcast"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights, message):
    with pytest.raises(UserError, match=message):
        DualModel.from_attention(Q.expand(5, 2, 4), K, V, 2, training_weights=weights)


def test_a_query_whose_keys_all_count_nothing_is_refused():
    with pytest.raises(UserError, match="query 0 has no key to attend to with a positive training weight"):
        DualModel.from_attention(Q, K, V, 3, training_weights=0.0)
    assert not DualModel.from_attention(Q, K, V, 3, kernel="linear", training_weights=0.0).predict().any()
    dual = DualModel.from_attention(Q, K, V, 3, training_weights=[1.0, 0.0, 0.0])
    with pytest.raises(UserError, match="no key to attend to without demonstration 0"):
        dual.without(0)


def test_bounds_are_about_demonstrations_that_count_once():
    dual = DualModel.from_attention(Q, K, V, 2, training_weights=0.5)
    for bound in (generalization_bounds, rademacher_complexity, lambda dual: measured_gap(dual, 1, 2)):
        with pytest.raises(UserError, match="this dual model has training weights"):
            bound(dual)
