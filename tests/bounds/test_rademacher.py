"""Theorem 3.2: what goes into the bounds is measured rightly, and the bounds stand in the right order."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens import DualModel, UserError
from iclens.bounds import generalization_bounds, rademacher_complexity
from iclens.bounds.sample import weighted_sum
from iclens.kernels import SoftcappedKernel


def head(seed, *, n_key=20, n_demonstrations=12, d=6, d_v=4, n_query=3, leading=(), size=1.0, masked=False, **options):
    generator = torch.Generator().manual_seed(seed)
    q, k = (size * torch.randn(*leading, n, d, generator=generator) for n in (n_query, n_key))
    v = torch.randn(*leading, n_key, d_v, generator=generator)
    mask = None
    if masked:
        mask = torch.rand(*leading, n_query, n_key, generator=generator) < 0.6
        mask[..., [0, -1]] = True
    return DualModel.from_attention(q, k, v, n_demonstrations, mask=mask, **options)


def close(found, expected, rtol=1e-10):
    return torch.allclose(found, expected, rtol=rtol, atol=0)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    d_v=st.integers(1, 6),
    n_key=st.integers(2, 25),
    kernel=st.sampled_from(["softmax", "linear", "gaussian"]),
    leading=st.sampled_from([(), (2,), (2, 3)]),
    masked=st.booleans(),
)
def test_the_dual_is_measured_as_its_kernel_form_and_its_real_weights_say(seed, d_v, n_key, kernel, leading, masked):
    dual = head(
        seed, n_key=n_key, n_demonstrations=(n_key + 1) // 2, d_v=d_v, leading=leading, masked=masked, kernel=kernel
    )
    bounds = generalization_bounds(dual)
    chosen = dual.groups.ids >= 0
    chosen = chosen.expand(*leading, 3, n_key) if dual.mask is None else chosen & dual.mask
    assert torch.equal(bounds.n_demonstrations, chosen.sum(-1))
    assert close(bounds.w_frobenius.value, dual.weight_norm(), 1e-8)
    # Theorem 3.1's loss sums and divides by D; Theorem 3.2's averages.
    mean = dual.loss().after * dual.log_normalizer.exp() / bounds.n_demonstrations
    assert close(bounds.loss.value, mean, 1e-8)

    # The second route: W, φ and every loss written out over Mercer features.
    explicit = dual.explicit("mercer")
    pair = explicit.features
    W = explicit.train().W * (-pair.log_scale_q).exp()[..., None, None]
    phi = pair.phi_k * pair.log_scale_k.exp()[..., None, :, None]
    predictions = phi @ W.mT
    losses = -(predictions * dual.v.unsqueeze(-3)).sum(-1)

    def largest(values):
        return torch.where(chosen, values, -torch.inf).amax(-1)

    squares = dual.kernel.log_diagonal(dual.k).exp().unsqueeze(-2)
    lengths = dual.v.norm(dim=-1).unsqueeze(-2)
    assert close(bounds.w_spectral.value, torch.linalg.matrix_norm(W, 2), 1e-6)
    assert close(bounds.rho_predictions.value, largest(predictions.norm(dim=-1)), 1e-6)
    assert close(bounds.loss_range.value, 2 * largest(losses.abs()), 1e-6)
    assert close(bounds.rho_values.value, largest(lengths))
    assert close(bounds.radius.value, largest(lengths * squares.sqrt()))
    assert close(bounds.trace.value, torch.where(chosen, squares, 0.0).sum(-1))


def test_the_constants_are_those_of_the_derivation():
    dual = head(0)
    bounds = generalization_bounds(dual, delta=0.1)
    n, d_v = 12, 4
    root = math.sqrt(math.log(2 / 0.1) / (2 * n))
    values, predictions = bounds.rho_values.value, bounds.rho_predictions.value
    w, spectral, trace = bounds.w_frobenius.value, bounds.w_spectral.value, bounds.trace.value
    for name, norm, rho, factor in (
        ("frobenius", w, values, 1),
        ("spectral", spectral, values, math.sqrt(d_v)),
        ("printed", w, torch.maximum(values, predictions), d_v),
    ):
        bound = bounds.by_name[name]
        complexity = 2 * norm * factor * rho * trace.sqrt() / n
        confidence = 3 * (2 * norm * bounds.radius.value) * root
        assert close(bound.complexity.value, complexity)
        assert close(bound.confidence.value, confidence)
        assert close(bound.gap.value, complexity + confidence)
        assert torch.equal(bound.vacuous, bound.gap.log_abs >= bounds.loss_range.log_abs)
    assert close(bounds.trivial.value, 2 * w * bounds.radius.value)
    assert close(bounds.trace.value, (6**-0.5 * dual.k[:n].square().sum(-1)).exp().sum().expand(3))


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    n_key=st.integers(1, 30),
    d_v=st.integers(1, 8),
    size=st.floats(0.01, 3),
    kernel=st.sampled_from(["softmax", "gaussian", "linear"]),
    masked=st.booleans(),
)
def test_true_complexity_is_below_frobenius_below_spectral_below_printed(seed, n_key, d_v, size, kernel, masked):
    dual = head(seed, n_key=n_key, n_demonstrations=n_key, d_v=d_v, size=size, kernel=kernel, masked=masked)
    bounds = generalization_bounds(dual)
    true = rademacher_complexity(dual, 50)
    slack = 1e-7
    # The norm of a mean is at most the root of the mean square, by Jensen for a fair draw; 5 errors for 50 draws.
    allowed = math.log(2) - 5 * true.relative_error - slack
    assert (allowed + true.frobenius.log_abs <= bounds.frobenius.complexity.log_abs).all()
    assert (allowed + true.spectral.log_abs <= bounds.spectral.complexity.log_abs).all()
    assert (bounds.frobenius.complexity.log_abs <= bounds.spectral.complexity.log_abs + slack).all()
    assert (bounds.spectral.complexity.log_abs <= bounds.printed.complexity.log_abs + slack).all()
    assert (bounds.frobenius.gap.log_abs <= bounds.printed.gap.log_abs + slack).all()
    assert (bounds.loss_range.log_abs <= bounds.trivial.log_abs + slack).all()
    assert (bounds.w_spectral.log_abs <= bounds.w_frobenius.log_abs + slack).all()


def test_drawn_signs_agree_with_all_signs():
    dual = head(3, n_key=9, n_demonstrations=8, leading=(2,))
    pair = dual.explicit("mercer").features
    phi = (pair.phi_k * pair.log_scale_k.exp()[..., None, :, None])[:, 0, :8]
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=8)))
    sums = (signs[:, None, :, None] * dual.v[:, :8]).mT @ phi
    bounds = generalization_bounds(dual)
    drawn = rademacher_complexity(dual, 4000, generator=torch.Generator().manual_seed(1))
    frobenius = torch.linalg.matrix_norm(sums).mean(0)[:, None] * bounds.w_frobenius.value / 8
    nuclear = torch.linalg.matrix_norm(sums, "nuc").mean(0)[:, None] * bounds.w_spectral.value / 8
    assert drawn.relative_error.max() < 0.01
    assert ((drawn.frobenius.value / frobenius - 1).abs() < 4 * drawn.relative_error).all()
    assert ((drawn.spectral.value / nuclear - 1).abs() < 4 * drawn.relative_error).all()


def test_bounds_scale_with_the_values_and_not_with_the_order_of_the_demonstrations():
    dual = head(5)
    bounds = generalization_bounds(dual)
    larger = generalization_bounds(DualModel.from_attention(dual.q, dual.k, 3 * dual.v, 12))
    # w and ρ carry one factor of v each.
    assert close(larger.frobenius.gap.value, 9 * bounds.frobenius.gap.value)
    assert close(larger.spectral.gap.value, 9 * bounds.spectral.gap.value)
    order = torch.cat([torch.randperm(12, generator=torch.Generator().manual_seed(0)), torch.arange(12, 20)])
    permuted = generalization_bounds(DualModel.from_attention(dual.q, dual.k[order], dual.v[order], 12))
    for name, bound in bounds.by_name.items():
        assert close(permuted.by_name[name].gap.value, bound.gap.value), name


@pytest.mark.parametrize("block_elements", [1, 300, 1000])
def test_blocks_of_any_size_give_the_same(block_elements):
    dual = head(6, leading=(2,))
    directions = torch.nn.functional.normalize(dual.v, dim=-1)
    weights = torch.rand(2, 3, 20, generator=torch.Generator().manual_seed(0))
    given = (dual.kernel, dual.k, directions, weights)
    expected, found = weighted_sum(*given), weighted_sum(*given, block_elements=block_elements)
    assert close(found.moment, expected.moment)
    assert close(found.fitted_norm, expected.fitted_norm)
    assert torch.allclose(found.fitted_target, expected.fitted_target, rtol=1e-10, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([0.01, 0.1, 1.0]), d_v=st.integers(1, 5))
def test_sixteen_tokens_are_never_enough_and_twenty_six_beat_the_trivial_bound(seed, size, d_v):
    few = generalization_bounds(head(seed, n_key=16, n_demonstrations=16, size=size, d_v=d_v), delta=0.05)
    assert all(bound.vacuous.all() for bound in few.by_name.values())
    dual = head(seed, n_key=26, n_demonstrations=26, size=size, d_v=d_v)
    # Values of one length: B is then the product of the largest lengths.
    v = torch.nn.functional.normalize(dual.v, dim=-1)
    enough = generalization_bounds(DualModel.from_attention(dual.q, dual.k, v, 26), delta=0.05)
    assert (enough.frobenius.gap.log_abs < enough.trivial.log_abs).all()


def test_many_close_demonstrations_say_something_and_few_never_do():
    generator = torch.Generator().manual_seed(0)
    few = generalization_bounds(head(1, n_key=20, n_demonstrations=20, size=0.1))
    assert few.frobenius.vacuous.all()
    k = 0.1 * torch.randn(2000, 3, generator=generator)
    v = 1 + 0.1 * torch.randn(2000, 2, generator=generator)
    many = generalization_bounds(DualModel.from_attention(k[:1], k, v, 2000))
    assert not many.frobenius.vacuous.any()
    assert not many.spectral.vacuous.any()
    # It then is a statement: (complexity + 3 √(log(2/δ)/2N)) of the range.
    assert many.frobenius.gap.value < 0.2 * many.loss_range.value


@pytest.mark.parametrize("largest_score", [1e3, 1e4])
def test_large_keys_give_finite_logarithms_and_infinite_values(largest_score):
    dual = head(2)
    factor = (largest_score / (dual.q @ dual.k.mT * 6**-0.5).abs().max()).sqrt()
    dual = DualModel.from_attention(dual.q * factor, dual.k * factor, dual.v, 12)
    bounds = generalization_bounds(dual)
    true = rademacher_complexity(dual, 20)
    # log Tr K_S is the largest squared norm to within log N.
    squares = 6**-0.5 * dual.k[:12].square().sum(-1)
    assert squares.max() > 1.2 * largest_score
    assert ((bounds.trace.log_abs - squares.max()).abs() < math.log(12)).all()
    assert torch.allclose(bounds.w_frobenius.log_abs, dual.weight_norm(log=True), rtol=1e-9)
    numbers = [bounds.trace, bounds.loss, bounds.loss_range, bounds.rho_predictions, true.frobenius, true.spectral]
    numbers += [part for bound in bounds.by_name.values() for part in bound[:3]]
    for number in numbers:
        assert number.log_abs.isfinite().all()
    assert bounds.trace.value.isinf().all()
    assert bounds.printed.gap.value.isinf().all()
    assert (true.frobenius.log_abs + math.log(2) <= bounds.frobenius.complexity.log_abs + 1e-9).all()


def test_tiny_and_zero_values_are_fine():
    dual = head(4, n_key=12)
    v = dual.v * 1e-200
    v[0] = 0
    bounds = generalization_bounds(DualModel.from_attention(dual.q, dual.k, v, 12))
    assert bounds.frobenius.gap.log_abs.isfinite().all()
    assert (bounds.rho_values.log_abs < -400).all()
    none = generalization_bounds(DualModel.from_attention(dual.q, dual.k, v * 0, 12))
    assert (none.frobenius.gap.value == 0).all()


def test_a_query_without_demonstrations_gets_no_bound():
    dual = head(0)
    mask = torch.ones(3, 20, dtype=torch.bool)
    mask[1, :12] = False
    bounds = generalization_bounds(DualModel.from_attention(dual.q, dual.k, dual.v, 12, mask=mask))
    assert bounds.n_demonstrations.tolist() == [12, 0, 12]
    for bound in bounds.by_name.values():
        assert bound.gap.value.isinf().tolist() == [False, True, False]
        assert bound.vacuous[1]


def test_a_support_raises_the_range_and_never_lowers_it():
    dual = head(0)
    plain = generalization_bounds(dual)
    k, v = 2 * dual.k, 2 * dual.v
    wide = generalization_bounds(dual, support=(k, v))
    expected = (v.norm(dim=-1) * (6**-0.5 * k.square().sum(-1) / 2).exp()).max()
    assert close(wide.radius.value, expected.expand(3))
    assert torch.equal(wide.frobenius.complexity.log_abs, plain.frobenius.complexity.log_abs)
    assert (wide.frobenius.confidence.log_abs > plain.frobenius.confidence.log_abs).all()
    narrow = generalization_bounds(dual, support=(0.1 * dual.k, 0.1 * dual.v))
    assert torch.equal(narrow.radius.log_abs, plain.radius.log_abs)


def test_mistakes_are_named():
    dual = head(0)
    for delta in (0.0, 1.0, math.nan):
        with pytest.raises(UserError, match="strictly between 0 and 1"):
            generalization_bounds(dual, delta)
    with pytest.raises(UserError, match="keys of width 5 and values of width 4; the dual has 6 and 4"):
        generalization_bounds(dual, support=(torch.randn(2, 5), torch.randn(2, 4)))
    with pytest.raises(UserError, match="n_draws=1"):
        rademacher_complexity(dual, 1)
    capped = DualModel.from_attention(dual.q, dual.k, dual.v, 3, kernel=SoftcappedKernel(1.0, 5.0))
    with pytest.raises(UserError, match="not positive semi-definite"):
        generalization_bounds(capped)
