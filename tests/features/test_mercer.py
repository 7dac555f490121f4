"""Mercer features: gradient descent on a real W reproduces attention, and says how far it can be trusted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from iclens import DualModel, UserError
from iclens.features import JointMercer
from iclens.features.correlation import correlation
from iclens.kernels import GaussianKernel, LinearKernel, SoftcappedKernel, SoftmaxKernel


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-300)).item()


def head(seed, n_key, d, *, n_query=2, leading=(), largest_score=3.0, masked=False, kernel="softmax", awkward=False):
    """A dual model; `awkward` puts in repeated keys, zero vectors and a query equal to a key."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(*leading, n_query, d, generator=generator)
    k = torch.randn(*leading, n_key, d, generator=generator)
    v = torch.randn(*leading, n_key, 3, generator=generator)
    factor = (largest_score / (q @ k.mT * d**-0.5).abs().max()).sqrt()
    q, k = q * factor, k * factor
    if awkward and n_key >= 4:
        k[..., 1, :] = k[..., 0, :]
        k[..., 2, :] = 0
        q[..., 0, :] = k[..., 3, :]
        v[..., 3, :] = 0
        # The norm of a chosen key may give a score beyond the largest one asked for.
        factor = (largest_score / (q @ k.mT * d**-0.5).abs().max()).sqrt().clamp_max(1)
        q, k = q * factor, k * factor
    mask = None
    if masked:
        mask = torch.rand(*leading, n_query, n_key, generator=generator) < 0.6
        mask[..., -1] = True
    scale = 1.0 if kernel == "linear" and d == 1 else d**-0.5
    return DualModel.from_attention(q, k, v, max(1, n_key // 2), mask=mask, scale=scale, kernel=kernel)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    n_key=st.integers(1, 80),
    d=st.integers(1, 128),
    largest_score=st.sampled_from([0.01, 1.0, 10.0, 30.0]),
    kernel=st.sampled_from(["softmax", "softmax", "linear", "gaussian"]),
    leading=st.sampled_from([(), (2,), (2, 1)]),
    masked=st.booleans(),
    awkward=st.booleans(),
)
def test_trained_weights_reproduce_attention(seed, n_key, d, largest_score, kernel, leading, masked, awkward):
    dual = head(
        seed, n_key, d, leading=leading, largest_score=largest_score, masked=masked, kernel=kernel, awkward=awkward
    )
    training = dual.explicit("mercer").train()
    expected = dual.predict()
    if kernel == "softmax":
        expected = scaled_dot_product_attention(dual.q, dual.k, dual.v, attn_mask=dual.mask)
    assert relative(training.prediction, expected) <= 1e-8
    assert training.W.shape == (*leading, 2, 3, n_key + 1)


def test_two_hundred_keys_and_the_largest_width():
    for d in (1, 2, 128):
        dual = head(d, 200, d, largest_score=30.0, awkward=True)
        assert relative(dual.explicit("mercer").train().prediction, dual.predict()) <= 1e-8


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    n_key=st.integers(1, 30),
    d=st.integers(1, 64),
    basis=st.sampled_from(["mercer", "mercer-joint"]),
    kernel=st.sampled_from(["softmax", "linear", "gaussian"]),
    masked=st.booleans(),
)
def test_norms_and_losses_of_the_real_weights_are_those_of_the_kernel_form(seed, n_key, d, basis, kernel, masked):
    dual = head(seed, n_key, d, n_query=3, largest_score=2.0, masked=masked, kernel=kernel)
    explicit = dual.explicit(basis)
    training = explicit.train()
    # W is stored in units of exp(-log_scale_q).
    unit = (-explicit.features.log_scale_q).exp()
    norm = training.W.flatten(-2).norm(dim=-1) * unit
    rtol = 1e-7
    if basis == "mercer-joint":
        # D(q) is no more exact than the inner products with the keys that it sums.
        closest = correlation(dual.kernel, dual.q, dual.k).abs()
        closest = closest if dual.mask is None else closest * dual.mask
        rtol += 4 * n_key * (explicit.features.inner_error.squeeze() / closest.amax(-1)).max().item()
    assert torch.allclose(norm, dual.weight_norm(), rtol=rtol, atol=0)
    step = (training.W - training.W_0).flatten(-2).norm(dim=-1) * unit
    loss = dual.loss()
    drop = loss.before - loss.after
    assert torch.allclose(step.square(), drop, rtol=2 * rtol, atol=1e-9 * loss.before.abs().max().item())


@pytest.mark.parametrize("basis", ["mercer", "mercer-joint"])
def test_every_schedule_ends_at_the_same_weights(basis):
    dual = head(5, 12, 4, leading=(2,), masked=True)
    explicit = dual.explicit(basis)
    one = explicit.train()
    n = dual.n_demonstrations
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(1)).tolist()
    others = {
        "k steps": explicit.train(steps=n),
        "another rate": explicit.train(steps=3, learning_rate=0.01),
        "one at a time": explicit.train(order="sequential"),
        "in any order": explicit.train(order=shuffled),
        "three passes": explicit.train(steps=3, order="sequential"),
    }
    for name, other in others.items():
        assert relative(other.W, one.W) <= 1e-13, name
        assert torch.equal(other.W_0, one.W_0), name
    assert others["in any order"].trajectory.shape == (2, 2, n + 1)
    # The schedules differ on the way: only the ends agree.
    way = others["in any order"].trajectory[..., 1:-1] - others["one at a time"].trajectory[..., 1:-1]
    assert way.abs().max() > 1e-3


def test_the_distance_to_attention_ends_at_zero_and_may_grow_on_the_way():
    q, k = torch.ones(1, 2), torch.ones(2, 2)
    dual = DualModel.from_attention(q, k, torch.tensor([[1.0], [-1.0]]), 2)
    trajectory = dual.explicit("mercer").train(order="sequential").trajectory[0]
    assert torch.allclose(trajectory, torch.tensor([0.0, 0.5, 0.0]), atol=1e-14)


def test_a_joint_basis_is_one_basis_for_all_queries():
    dual = head(2, 20, 8, n_query=4, largest_score=5.0)
    explicit = dual.explicit("mercer-joint")
    pair = explicit.features
    assert pair.phi_k.shape == (1, 20, 24)
    assert pair.phi_q.shape == (4, 24)
    assert relative(explicit.train().prediction, dual.predict()) <= 1e-10
    # The features of tokens have the Gram matrix of the kernel, queries among themselves included.
    tokens = torch.cat([pair.phi_q, pair.phi_k[0]])
    scale = torch.cat([pair.log_scale_q, pair.log_scale_k]).exp()
    gram = scale[:, None] * (tokens @ tokens.mT) * scale
    together = torch.cat([dual.q, dual.k])
    assert relative(gram, dual.kernel.log(together, together).value) <= 1e-12


def test_both_bases_give_the_same_dual_model():
    dual = head(9, 15, 6, n_query=3)
    norms = [dual.explicit(name).train().W.flatten(-2).norm(dim=-1) for name in ("mercer", "mercer-joint")]
    assert relative(*norms) <= 1e-12


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    n_key=st.integers(1, 80),
    d=st.integers(1, 128),
    largest_score=st.floats(0.03, 100),
    kernel=st.sampled_from(["softmax", "linear", "gaussian"]),
    imbalance=st.floats(0.3, 3.0),
)
def test_precision_bounds_the_rounding_error(seed, n_key, d, largest_score, kernel, imbalance):
    base = head(seed, n_key, d, largest_score=largest_score, kernel=kernel)
    dual = DualModel.from_attention(base.q * imbalance, base.k / imbalance, base.v, 1, kernel=base.kernel)
    half_q, half_k = (dual.kernel.log_diagonal(tokens) / 2 for tokens in (dual.q, dual.k))
    largest_weight = (half_q[:, None] + half_k - dual.log_normalizer[:, None]).max()
    try:
        explicit = dual.explicit("mercer")
        explicit.train()
    except UserError:
        # Refused, never silently wrong, and only where W itself would leave the range of the dtype.
        assert largest_weight > 690
        return
    exact = dual.predict()
    error = (explicit.predict() - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert (error <= 3 * explicit.precision).all()
    if largest_score <= 30 and 0.5 < imbalance < 2:
        assert (explicit.precision <= 1e-8 * dual.v.norm(dim=-1).max() / exact.norm(dim=-1)).all()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    n_key=st.integers(1, 80),
    d=st.integers(1, 128),
    size=st.floats(0.05, 10),
    single=st.booleans(),
)
def test_the_joint_basis_states_the_error_of_its_inner_products(seed, n_key, d, size, single):
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float32 if single else torch.float64
    q, k = (size * torch.randn(n, d, generator=generator).to(dtype) for n in (3, n_key))
    kernel = SoftmaxKernel(d**-0.5)
    pair = JointMercer().pair(q, k, kernel)
    error = ((pair.phi_k @ pair.phi_q.unsqueeze(-1)).squeeze(-1) - correlation(kernel, q, k)).abs()
    assert (error <= pair.inner_error).all()
    assert (pair.inner_error <= 20 * torch.finfo(dtype).eps * (n_key + 3)).all()


def test_far_apart_tokens_exhaust_a_joint_basis_but_not_an_anchored_one():
    dual = head(3, 100, 16, largest_score=30.0)
    exact = dual.predict()
    joint = dual.explicit("mercer-joint").train().prediction
    assert relative(joint, exact) > 1e-6
    assert relative(dual.explicit("mercer").train().prediction, exact) <= 1e-12


def test_gradients_reach_the_inputs():
    base = head(4, 6, 3, n_query=2)
    inputs = [tensor.clone().requires_grad_() for tensor in (base.q, base.k, base.v)]
    trained = DualModel.from_attention(*inputs, 4).explicit("mercer").train(steps=2).prediction
    plain = scaled_dot_product_attention(*inputs)
    weights = torch.randn(plain.shape, generator=torch.Generator().manual_seed(0))
    found = torch.autograd.grad((trained * weights).sum(), inputs)
    expected = torch.autograd.grad((plain * weights).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        assert relative(one, other) <= 1e-10


def test_correlations_are_cosines():
    generator = torch.Generator().manual_seed(0)
    x, y = 3 * torch.randn(5, 4, generator=generator), 3 * torch.randn(6, 4, generator=generator)
    gaussian = torch.exp(-0.7 * torch.cdist(x, y).square() / 2)
    assert relative(correlation(SoftmaxKernel(0.7), x, y), gaussian) <= 1e-12
    assert relative(correlation(GaussianKernel(0.7), x, y), gaussian) <= 1e-12
    cosine = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=-1)
    assert relative(correlation(LinearKernel(0.7), x, y), cosine) <= 1e-12
    x[0] = 0
    assert (correlation(LinearKernel(), x, y)[0] == 0).all()


def test_a_kernel_without_features_is_refused():
    q = torch.randn(1, 3)
    dual = DualModel.from_attention(q, q, q, 1, kernel=SoftcappedKernel(1.0, 5.0))
    for name in ("mercer", "mercer-joint", "nystrom"):
        with pytest.raises(UserError, match="not positive semi-definite"):
            dual.explicit(name)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    n_key=st.integers(1, 80),
    d=st.integers(1, 128),
    largest_score=st.floats(0.03, 100),
    kernel=st.sampled_from(["softmax", "linear", "gaussian"]),
    basis=st.sampled_from(["mercer", "mercer-joint"]),
    imbalance=st.floats(0.3, 3.0),
)
def test_precision_is_honest_in_both_bases(seed, n_key, d, largest_score, kernel, basis, imbalance):
    base = head(seed, n_key, d, largest_score=largest_score, kernel=kernel)
    dual = DualModel.from_attention(base.q * imbalance, base.k / imbalance, base.v, 1, kernel=base.kernel)
    try:
        explicit = dual.explicit(basis)
    except UserError:
        return
    exact = dual.predict()
    error = (explicit.predict() - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert not explicit.precision.isnan().any()
    assert (error <= 3 * explicit.precision).all()
