"""DualModel: equality with attention, and the laws of its parts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from iclens import DualModel, UserError
from iclens.dual import quadratic
from iclens.kernels import GaussianKernel, SoftcappedKernel


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-300)).item()


def relative_to_values(found, expected, v):
    """Against the size of what is summed: two orders of summation of values that cancel agree no better than that."""
    return ((found - expected).abs().max() / v.abs().max()).item()


def tokens(generator, *shape, dtype=torch.float64, largest_score=None):
    """q, k, v of (leading, n_query, n_key, d, d_v) with the largest |score| set."""
    *leading, n_query, n_key, d, d_v = shape
    q = torch.randn(*leading, n_query, d, generator=generator, dtype=torch.float64)
    k = torch.randn(*leading, n_key, d, generator=generator, dtype=torch.float64)
    v = torch.randn(*leading, n_key, d_v, generator=generator, dtype=torch.float64)
    if largest_score is not None:
        factor = (largest_score / (q @ k.mT * d**-0.5).abs().max()).sqrt()
        q, k = q * factor, k * factor
    return q.to(dtype), k.to(dtype), v.to(dtype)


def random_mask(generator, *shape):
    mask = torch.rand(shape, generator=generator) < 0.6
    mask[..., 0] = True
    return mask


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    n_query=st.integers(1, 5),
    n_key=st.integers(1, 40),
    d=st.integers(1, 128),
    d_v=st.integers(1, 9),
    masked=st.booleans(),
    single=st.booleans(),
    largest_score=st.sampled_from([0.01, 1.0, 30.0, 1e3, 1e4]),
)
def test_prediction_equals_attention(seed, n_query, n_key, d, d_v, masked, single, largest_score):
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float32 if single else torch.float64
    q, k, v = tokens(generator, 2, 3, n_query, n_key, d, d_v, dtype=dtype, largest_score=largest_score)
    mask = random_mask(generator, 2, 1, n_query, n_key) if masked else None
    dual = DualModel.from_attention(q, k, v, 1 + seed % n_key, mask=mask)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    tolerance = (2e-6 if single else 1e-12) * max(1, largest_score / 10)
    assert relative(dual.predict(), expected) <= tolerance
    assert relative_to_values(dual.initial() + dual.contributions().sum(-2), expected, v) <= tolerance
    assert dual.contributions().shape == (2, 3, n_query, dual.n_demonstrations, d_v)


@pytest.mark.parametrize("n_key", [1, 2, 17, 512, 4096])
@pytest.mark.parametrize("d", [1, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("largest_score", [1.0, 1e4])
def test_prediction_at_the_limits_of_size_and_score(n_key, d, dtype, largest_score):
    q, k, v = tokens(torch.Generator().manual_seed(n_key), 3, n_key, d, 8, dtype=dtype, largest_score=largest_score)
    tolerance = (2e-6 if dtype == torch.float32 else 1e-12) * max(1, largest_score / 10)
    for mask in (None, torch.ones(3, n_key, dtype=torch.bool).tril(n_key - 3)):
        if mask is not None and n_key < 3:
            continue
        dual = DualModel.from_attention(q, k, v, max(1, n_key // 2), mask=mask)
        expected = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        assert relative(dual.predict(), expected) <= tolerance
        assert relative_to_values(dual.initial() + dual.contributions().sum(-2), expected, v) <= tolerance


def test_three_ways_to_say_demonstrations_agree():
    q, k, v = tokens(torch.Generator().manual_seed(1), 2, 4, 12, 8, 5)
    first = DualModel.from_attention(q, k, v, 7)
    by_mask = DualModel.from_attention(q, k, v, torch.arange(12) < 7)
    by_ids = DualModel.from_attention(q, k, v, torch.where(torch.arange(12) < 7, torch.arange(12), -1))
    by_tensor = DualModel.from_attention(q, k, v, torch.tensor(7))
    batched = DualModel.from_attention(q, k, v, (torch.arange(12) < 7).expand(2, 12))
    for other in (by_mask, by_ids, by_tensor, batched):
        torch.testing.assert_close(other.contributions(), first.contributions())
        torch.testing.assert_close(other.initial(), first.initial())


def test_groups_sum_their_tokens_in_any_order_and_per_prompt():
    generator = torch.Generator().manual_seed(2)
    q, k, v = tokens(generator, 2, 3, 4, 12, 8, 5)
    ids = torch.stack([torch.tensor([2, 0, 0, -1, 1, 1, 1, 0, 2, -1, 2, 2])[torch.randperm(12)] for _ in range(2)])
    per_token = DualModel.from_attention(q, k, v, 12).contributions()
    batched = DualModel.from_attention(q, k, v, ids[:, None]).contributions()
    for prompt in range(2):
        single = DualModel.from_attention(q[prompt], k[prompt], v[prompt], ids[prompt]).contributions()
        torch.testing.assert_close(batched[prompt], single)
        for g in range(3):
            expected = per_token[prompt][..., ids[prompt] == g, :].sum(-2)
            torch.testing.assert_close(single[..., g, :], expected)


def test_weights_are_the_share_of_the_normaliser():
    q, k, v = tokens(torch.Generator().manual_seed(3), 4, 12, 8, 5)
    dual = DualModel.from_attention(q, k, v, torch.tensor([0] * 5 + [1] * 4 + [-1] * 3))
    shares = (q @ k.mT * 8**-0.5).softmax(-1)
    torch.testing.assert_close(dual.weights(), torch.stack([shares[:, :5].sum(-1), shares[:, 5:9].sum(-1)], -1))


def test_batched_groups_are_chunked_without_a_trace():
    q, k, v = tokens(torch.Generator().manual_seed(4), 2, 6, 12, 8, 5)
    ids = torch.stack([torch.arange(12) // 4, torch.arange(12).flip(0) // 4])
    dual = DualModel.from_attention(q, k, v, ids)
    by_rows = dual.groups.sum_values(dual.coefficients, v, most_products=1)
    torch.testing.assert_close(by_rows, dual.contributions(), rtol=0, atol=0)


def test_grouped_queries_share_keys_and_values():
    generator = torch.Generator().manual_seed(5)
    q, _, _ = tokens(generator, 2, 6, 4, 9, 8, 5)
    _, k, v = tokens(generator, 2, 2, 4, 9, 8, 5)
    mask = torch.ones(4, 9, dtype=torch.bool).tril(5)
    found = DualModel.from_attention(q, k, v, 4, mask=mask).predict()
    expected = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    assert relative(found, expected) <= 1e-12


def test_causal_mask_is_a_growing_training_set():
    q, k, v = tokens(torch.Generator().manual_seed(6), 10, 10, 8, 5)
    whole = DualModel.from_attention(q, k, v, 10, mask=torch.ones(10, 10, dtype=torch.bool).tril())
    for t in range(10):
        grown = DualModel.from_attention(q[t : t + 1], k[: t + 1], v[: t + 1], t + 1)
        torch.testing.assert_close(whole.predict()[t : t + 1], grown.predict())
        torch.testing.assert_close(whole.contributions()[t : t + 1, : t + 1], grown.contributions())
        torch.testing.assert_close(whole.weight_norm()[t : t + 1], grown.weight_norm())
        torch.testing.assert_close(whole.loss().after[t : t + 1], grown.loss().after)


def test_order_of_the_context_does_not_matter():
    generator = torch.Generator().manual_seed(7)
    q, k, v = tokens(generator, 3, 9, 8, 5)
    ids = torch.tensor([0, 0, 1, 1, 1, 2, -1, -1, 3])
    order = torch.randperm(9, generator=generator)
    one = DualModel.from_attention(q, k, v, ids)
    other = DualModel.from_attention(q, k[order], v[order], ids[order])
    torch.testing.assert_close(other.contributions(), one.contributions())
    torch.testing.assert_close(other.loss(), one.loss())
    torch.testing.assert_close(other.alignment(), one.alignment())


@pytest.mark.parametrize("left_out", [0, 2, (0, 1), ()])
def test_without_equals_attention_over_the_other_keys(left_out):
    q, k, v = tokens(torch.Generator().manual_seed(8), 2, 4, 12, 8, 5, largest_score=50)
    ids = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, -1, -1])
    chosen = (left_out,) if isinstance(left_out, int) else left_out
    kept = ~torch.isin(ids, torch.tensor(chosen, dtype=torch.long))
    expected = scaled_dot_product_attention(q, k[:, kept], v[:, kept])
    assert relative(DualModel.from_attention(q, k, v, ids).without(left_out), expected) <= 1e-11


def test_without_keeps_its_digits_when_one_key_takes_all_the_weight():
    q, k, v = tokens(torch.Generator().manual_seed(9), 1, 6, 4, 3)
    k[0] = q[0] * 200 / q[0].square().sum()
    dual = DualModel.from_attention(q, k, v, 6, scale=1.0)
    assert dual.weights()[0, 0] > 1 - 1e-12
    expected = scaled_dot_product_attention(q, k[1:], v[1:], scale=1.0)
    assert relative(dual.without(0), expected) <= 1e-12


@pytest.mark.parametrize("kernel", ["softmax", "gaussian", "linear"])
@pytest.mark.parametrize("masked", [False, True])
def test_loss_norm_and_alignment_agree_with_dense_formulas(kernel, masked):
    generator = torch.Generator().manual_seed(10)
    q, k, v = tokens(generator, 2, 4, 12, 6, 5)
    mask = random_mask(generator, 4, 12) if masked else torch.ones(4, 12, dtype=torch.bool)
    demonstration = torch.arange(12) < 8
    dual = DualModel.from_attention(q, k, v, demonstration, mask=mask if masked else None, kernel=kernel)
    gram, D = dual.kernel.log(k, k).value, dual.log_normalizer.exp()
    pairs = gram * (v @ v.mT)
    left, right = (mask & demonstration).double(), (mask & ~demonstration).double()
    before = -torch.einsum("qi,bij,qj->bq", left, pairs, right) / D**2
    after = -torch.einsum("qi,bij,qj->bq", left, pairs, left + right) / D**2
    norm = torch.einsum("qi,bij,qj->bq", left + right, pairs, left + right).sqrt() / D
    loss = dual.loss()
    torch.testing.assert_close(loss.before, before)
    torch.testing.assert_close(loss.after, after)
    torch.testing.assert_close(dual.weight_norm(), norm)
    torch.testing.assert_close(dual.loss(learning_rate=4.0).after, after / 4)
    alignment = dual.alignment()
    for trained_on, cosine, collapse in (
        (right, alignment.before, alignment.collapse_before),
        (left + right, alignment.after, alignment.collapse_after),
    ):
        f = torch.einsum("bij,qj,bjd->bqid", gram, trained_on, v)
        expected = torch.nn.functional.cosine_similarity(f, v[:, None], dim=-1, eps=0)[..., :8] * left[:, :8]
        torch.testing.assert_close(cosine, expected)
        units = (f / f.norm(dim=-1, keepdim=True))[..., :8, :] * left[:, :8, None]
        torch.testing.assert_close(collapse, units.sum(-2).norm(dim=-1) / left.sum(-1))


def test_pair_sums_in_blocks_equal_the_whole():
    generator = torch.Generator().manual_seed(11)
    q, k, v = tokens(generator, 2, 4, 12, 6, 5)
    dual = DualModel.from_attention(q, k, v, 8, mask=random_mask(generator, 4, 12))
    left, right = dual.mask & (dual.groups.ids >= 0), dual.mask
    for function in (quadratic.pair_sum, quadratic.prediction_cosines):
        whole, in_blocks = (function(dual.kernel, k, v, left, right, **most) for most in ({}, {"most_entries": 100}))
        torch.testing.assert_close(tuple(in_blocks), tuple(whole))


def test_log_loss_and_norm_stay_finite_where_the_numbers_overflow():
    q, k, v = tokens(torch.Generator().manual_seed(12), 2, 8, 16, 3, largest_score=1e4)
    dual = DualModel.from_attention(q, k, v, 5)
    loss = dual.loss(log=True)
    assert loss.after.log_abs.isfinite().all()
    assert loss.before.log_abs.isfinite().all()
    assert dual.weight_norm(log=True).isfinite().all()
    assert dual.weight_norm().isinf().any()
    assert not dual.alignment().after.isnan().any()
    small = DualModel.from_attention(q / 300, k / 300, v, 5)
    torch.testing.assert_close(small.loss(log=True).after.value, small.loss().after)
    torch.testing.assert_close(small.weight_norm(log=True).exp(), small.weight_norm())


def test_without_initial_tokens_the_initial_prediction_and_loss_vanish():
    q, k, v = tokens(torch.Generator().manual_seed(13), 2, 6, 4, 3)
    dual = DualModel.from_attention(q, k, v, 6)
    assert dual.initial().abs().max() == 0
    assert dual.loss().before.abs().max() == 0
    assert dual.alignment().before.abs().max() == 0


def test_gradients_equal_those_of_attention():
    q, k, v = (t.requires_grad_() for t in tokens(torch.Generator().manual_seed(14), 2, 3, 9, 8, 5))
    mask = torch.ones(3, 9, dtype=torch.bool).tril(6)
    probe = torch.randn(2, 3, 5)
    dual = DualModel.from_attention(q, k, v, 4, mask=mask)
    found = torch.autograd.grad(((dual.initial() + dual.contributions().sum(-2)) * probe).sum(), (q, k, v))
    expected = torch.autograd.grad((scaled_dot_product_attention(q, k, v, attn_mask=mask) * probe).sum(), (q, k, v))
    for one, other in zip(found, expected, strict=True):
        assert relative(one, other) <= 1e-12


def test_loss_and_norm_have_gradients():
    q, k, v = (t.requires_grad_() for t in tokens(torch.Generator().manual_seed(15), 2, 5, 4, 3))

    def statistics(q, k, v):
        dual = DualModel.from_attention(q, k, v, 3)
        return torch.cat([dual.loss().after, dual.weight_norm(), dual.alignment().after.flatten()])

    assert torch.autograd.gradcheck(statistics, (q, k, v))


def test_softcapped_scores_equal_a_capped_softmax():
    q, k, v = tokens(torch.Generator().manual_seed(16), 2, 6, 4, 3, largest_score=90)
    dual = DualModel.from_attention(q, k, v, 6, kernel=SoftcappedKernel(0.5, 20.0))
    expected = (20 * (q @ k.mT * 0.5 / 20).tanh()).softmax(-1) @ v
    assert relative(dual.predict(), expected) <= 1e-12


def test_gaussian_attention_is_softmax_attention_on_keys_of_equal_norm():
    q, k, v = tokens(torch.Generator().manual_seed(17), 2, 6, 4, 3)
    k = torch.nn.functional.normalize(k, dim=-1)
    found = DualModel.from_attention(q, k, v, 6, kernel=GaussianKernel(0.7)).predict()
    assert relative(found, DualModel.from_attention(q, k, v, 6, scale=0.7).predict()) <= 1e-12


def test_many_keys_in_memory_linear_in_their_number():
    q, k, v = tokens(torch.Generator().manual_seed(18), 1, 32768, 64, 64, dtype=torch.float32)
    ids = torch.arange(32768) // 8
    contributions = DualModel.from_attention(q, k, v, ids).contributions()
    assert contributions.shape == (1, 4096, 64)
    assert relative_to_values(contributions.sum(-2), scaled_dot_product_attention(q, k, v), v) <= 2e-6


Q, K, V = (torch.ones(*shape, dtype=torch.float64) for shape in ((2, 4), (3, 4), (3, 5)))


def ones(*shape):
    return torch.ones(shape, dtype=torch.float64)


def nan_at(tensor, *index):
    broken = tensor.clone()
    broken[index] = float("nan")
    return broken


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(q=Q[0]), "q has shape"),
        (dict(k=ones(3, 5)), "4 features and k has 5"),
        (dict(v=ones(4, 5)), "3 tokens and v has 4"),
        (dict(q=Q.long()), "floating point"),
        (dict(k=K.half()), "must agree"),
        (dict(q=nan_at(Q, 1, 2)), r"q holds a non-finite number at index \[1, 2\]"),
        (dict(v=V / 0), "v holds a non-finite"),
        (dict(q=ones(0, 4)), "no axis may be empty"),
        (dict(demonstrations=0), "between 1 and 3"),
        (dict(demonstrations=4), "between 1 and 3"),
        (dict(demonstrations=True), "is a bool"),
        (dict(demonstrations=torch.zeros(3, dtype=torch.bool)), "no key is a demonstration"),
        (dict(demonstrations=torch.tensor([0, 0])), "3 keys"),
        (dict(demonstrations=torch.tensor([0, 0, 2])), "demonstration 1 is empty"),
        (dict(demonstrations=torch.tensor([0, 1, -2])), "group ids start at 0"),
        (dict(demonstrations=ones(3)), "dtype"),
        (dict(mask=ones(2, 3)), "must be bool"),
        (dict(mask=torch.ones(2, 4, dtype=torch.bool)), "last two axes must be"),
        (dict(mask=torch.tensor([[True, True, True], [False, False, False]])), "query 1 has no key"),
        (dict(scale=float("nan")), "scale"),
        (dict(kernel="sofmax"), "Did you mean 'softmax'"),
        (dict(q=ones(2, 3, 4, 2, 4), k=ones(5, 4, 3, 4), v=ones(5, 4, 3, 5)), "broadcast"),
        (dict(q=ones(5, 2, 4), k=ones(2, 3, 4), v=ones(2, 3, 5)), "multiple"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, message):
    given_arguments = dict(q=Q, k=K, v=V, demonstrations=2) | arguments
    with pytest.raises(UserError, match=message):
        DualModel.from_attention(**given_arguments)


def test_a_dual_model_is_printed_in_one_line():
    dual = DualModel.from_attention(*tokens(torch.Generator().manual_seed(0), 2, 3, 6, 4, 5), 4, kernel="linear")
    assert repr(dual) == "DualModel(6 queries, 6 keys in 4 demonstrations and W_0, LinearKernel, torch.float64)"


def test_leaving_out_what_is_not_there_or_all_there_is():
    dual = DualModel.from_attention(Q, K, V, 3)
    with pytest.raises(UserError, match="no demonstration 3"):
        dual.without(3)
    with pytest.raises(UserError, match="no key to attend to without demonstration"):
        dual.without([0, 1, 2])
