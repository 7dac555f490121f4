"""The measured generalisation gap, against loops written out and against the bounds."""

import math

import pytest
import torch

from iclens import DualModel, UserError
from iclens.bounds import measured_gap


def pool(seed, n, *, d=6, d_v=4, n_query=2, size=0.7, others=0):
    """A dual model whose demonstrations are a population of inputs and their noisy linear images."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (size * torch.randn(m, d, generator=generator) for m in (n_query, n + others))
    v = k @ torch.randn(d, d_v, generator=generator) + 0.1 * torch.randn(n + others, d_v, generator=generator)
    return DualModel.from_attention(q, k, v, n)


def gap_by_hand(dual, drawn):
    """L − L̂ with Ŵ trained on the drawn demonstrations and the keys that are none, by plain sums."""
    n, n_key = dual.n_demonstrations, dual.k.shape[0]
    trained = [*drawn, *range(n, n_key)]
    gram = dual.kernel.log(dual.k, dual.k).value
    normalizer = dual.kernel.log(dual.q, dual.k[trained]).value.sum(-1)
    loss = -torch.stack([sum(gram[i, j] * (dual.v[i] @ dual.v[j]) for j in trained) for i in range(n)])
    held_out = [i for i in range(n) if i not in drawn]
    return (loss[held_out].mean() - loss[list(drawn)].mean()) / normalizer


@pytest.mark.parametrize("others", [0, 2])
def test_every_resample_is_one_of_the_possible_ones(others):
    dual = pool(0, 3, others=others)
    possible = torch.stack([gap_by_hand(dual, drawn) for drawn in ((0, 1), (0, 2), (1, 2))])
    found = measured_gap(dual, 2, 60, generator=torch.Generator().manual_seed(1))
    distance = (found.gap.value[:, None] - possible).abs().amax(-1)
    assert distance.amin(-1).max() < 1e-10 * possible.abs().max()
    share = torch.bincount(distance.argmin(-1), minlength=3) / 60
    assert (share > 0.15).all()
    assert torch.allclose(found.mean.value, share @ possible)


def test_demonstrations_of_several_keys_are_drawn_whole():
    single = pool(1, 6)
    ids = torch.tensor([0, 0, 1, 1, 1, 2])
    dual = DualModel.from_attention(single.q, single.k, single.v, ids)
    possible = torch.stack([gap_by_hand(single, drawn) for drawn in ((0, 1), (2, 3, 4), (5,))])
    found = measured_gap(dual, 1, 40)
    assert (found.gap.value[:, None] - possible).abs().amax(-1).amin(-1).max() < 1e-10 * possible.abs().max()
    assert set(found.bounds.n_demonstrations.unique().tolist()) == {1, 2, 3}


@pytest.mark.parametrize("delta", [0.05, 0.5])
@pytest.mark.parametrize(
    ("n", "options"), [(5, {}), (30, {}), (60, {"size": 0.2}), (20, {"size": 2.0}), (40, {"others": 10, "d_v": 1})]
)
def test_the_bounds_hold_in_their_share_of_resamples(n, options, delta):
    found = measured_gap(pool(n, 200, **options), n, 100, delta=delta)
    for name, share in found.coverage.items():
        assert (share >= 1 - delta).all(), name


@pytest.mark.parametrize("size", [0.1, 0.5, 1.0])
def test_the_measured_gap_is_below_frobenius_below_spectral_below_printed(size):
    found = measured_gap(pool(7, 400, size=size), 20, 100)
    # Divided by w, where the inequality holds in expectation over the sample.
    w = found.bounds.w_frobenius.value
    measured = (found.gap.value / w).mean(0)
    terms = [(found.bounds.by_name[name].complexity.value / w).mean(0) for name in ("frobenius", "spectral", "printed")]
    for smaller, larger in zip([measured, *terms], terms, strict=False):
        assert (smaller < larger).all()


def test_training_tokens_look_better_than_others_and_less_so_the_more_there_are():
    dual = pool(3, 500)
    few, many = (measured_gap(dual, n, 150) for n in (5, 100))
    # The loss of a training token includes its own gradient.
    assert (few.low.value > 0).all()
    assert (many.low.value > 0).all()
    relative = [(found.gap.value / found.bounds.loss_range.value).mean(0) for found in (few, many)]
    assert (relative[1] < relative[0] / 3).all()


def test_the_interval_is_that_of_the_mean():
    found = measured_gap(pool(4, 50), 10, 400)
    gap = found.gap.value
    assert torch.allclose(found.mean.value, gap.mean(0))
    assert torch.allclose(found.high.value - found.mean.value, 1.96 * gap.std(0) / 20)
    assert torch.allclose(found.mean.value - found.low.value, 1.96 * gap.std(0) / 20)


def test_equal_tokens_have_no_gap():
    dual = pool(5, 10)
    k, v = dual.k[:1].expand(10, -1), dual.v[:1].expand(10, -1)
    found = measured_gap(DualModel.from_attention(dual.q, k, v, 10), 4, 10)
    assert found.gap.value.abs().max() < 1e-12 * found.bounds.loss_range.value.max()


def test_the_draws_depend_on_the_generator_alone():
    dual = pool(6, 30)
    first, again, other = (measured_gap(dual, 9, 10, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first.gap.log_abs, again.gap.log_abs)
    assert not torch.equal(first.gap.log_abs, other.gap.log_abs)


def test_large_keys_give_finite_logarithms():
    dual = pool(8, 40)
    factor = (1e4 / (dual.q @ dual.k.mT * 6**-0.5).abs().max()).sqrt()
    dual = DualModel.from_attention(dual.q * factor, dual.k * factor, dual.v, 40)
    found = measured_gap(dual, 20, 30)
    for number in (found.gap, found.mean, found.bounds.frobenius.gap, found.bounds.loss_range):
        assert number.log_abs.isfinite().all()
    assert found.mean.log_abs.max() > 1000
    for share in found.coverage.values():
        assert (share == 1).all()


def test_linear_kernel_by_hand():
    # k(x, y) = xy in one dimension: Ŵ = Σ v_i k_i over the drawn, loss of a token −v_i Ŵ k_i.
    k, v = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [-1.0]])
    dual = DualModel.from_attention(torch.ones(1, 1), k, v, 2, kernel="linear")
    found = measured_gap(dual, 1, 20)
    # Trained on token 0: Ŵ = 1, losses −1 and 2; on token 1: Ŵ = −2, losses 2 and −4.
    assert set(found.gap.value.flatten().round(decimals=9).tolist()) == {3.0, 6.0}
    assert math.isclose(found.bounds.loss_range.value.max().item(), 8.0)


def test_mistakes_are_named():
    dual = pool(0, 5)
    with pytest.raises(UserError, match="between 1 and 4"):
        measured_gap(dual, 5)
    with pytest.raises(UserError, match="n_resamples=1"):
        measured_gap(dual, 2, 1)
    with pytest.raises(UserError, match="strictly between"):
        measured_gap(dual, 2, delta=2.0)
    with pytest.raises(UserError, match="one head at a time"):
        measured_gap(DualModel.from_attention(dual.q[None], dual.k[None], dual.v[None], 3), 2)
    mask = torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(UserError, match="takes no mask"):
        measured_gap(DualModel.from_attention(dual.q, dual.k, dual.v, 3, mask=mask), 2)
