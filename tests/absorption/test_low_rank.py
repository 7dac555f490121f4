"""Reduced-rank ridge regression: its minima are those that are known, and no other map of the rank reaches less."""

from __future__ import annotations

import pytest
import torch

from iclens.absorption import BestMaps, LowRank, best_maps

SIZES = {"fewer pairs than inputs": (7, 11, 5), "more": (40, 6, 9), "few outputs": (12, 8, 2)}
RIDGES = (1e-9, 1e-4, 0.3, 20.0)


def drawn(size: tuple[int, int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    n, d_in, d_out = size
    generator = torch.Generator().manual_seed(seed)
    # Inputs of unequal size in unequal directions, so that the metric matters.
    x = torch.randn(n, d_in, generator=generator) @ torch.diag(torch.logspace(0, -2, d_in))
    weights = 0.5 + torch.rand(n, generator=generator)
    return x, torch.randn(n, d_out, generator=generator), weights


def penalty(x: torch.Tensor, weights: torch.Tensor, ridge: float) -> float:
    return ridge * float((weights[:, None] * x.square()).sum() / weights.sum())


def loss_of(matrix: torch.Tensor, pairs: tuple[torch.Tensor, torch.Tensor, torch.Tensor], ridge: float) -> float:
    x, y, weights = pairs
    off = (weights * (x @ matrix.T - y).square().sum(1)).sum()
    return float(off + penalty(x, weights, ridge) * matrix.square().sum())


def fitted(pairs: tuple[torch.Tensor, torch.Tensor, torch.Tensor], ridge: float) -> BestMaps:
    return best_maps(*pairs, ridge)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("ridge", RIDGES)
def test_without_a_limit_it_solves_the_normal_equations(size: tuple[int, int, int], ridge: float) -> None:
    x, y, weights = pairs = drawn(size)
    best = fitted(pairs, ridge)
    gram = x.T @ (weights[:, None] * x) + penalty(x, weights, ridge) * torch.eye(size[1])
    right = y.T @ (weights[:, None] * x)
    torch.testing.assert_close(best.full @ gram, right, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(best.of_rank(min(size)).matrix, best.full, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("ridge", RIDGES)
def test_the_loss_is_that_of_the_closed_form_and_falls_with_the_rank(size: tuple[int, int, int], ridge: float) -> None:
    pairs = drawn(size)
    best = fitted(pairs, ridge)
    losses = [best.loss(rank) for rank in range(min(size) + 1)]
    assert losses == sorted(losses, reverse=True)
    for rank in range(1, min(size) + 1):
        assert torch.linalg.matrix_rank(best.of_rank(rank).matrix) <= rank
        assert loss_of(best.of_rank(rank).matrix, pairs, ridge) == pytest.approx(losses[rank], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("ridge", [1e-4, 0.3])
def test_no_other_map_of_the_rank_reaches_less(ridge: float) -> None:
    pairs = drawn((40, 6, 9))
    best, generator = fitted(pairs, ridge), torch.Generator().manual_seed(1)
    own = best.of_rank(2)
    for scale in (1e-3, 1e-2, 1e-1):
        for _ in range(20):
            a, b = (part + scale * torch.randn(part.shape, generator=generator) for part in (own.a, own.b))
            assert loss_of(b @ a, pairs, ridge) > best.loss(2)


def test_it_is_better_than_cutting_the_unconstrained_map_by_its_own_singular_values() -> None:
    """The metric is that of the inputs that occur."""
    pairs = drawn((40, 6, 9))
    best = fitted(pairs, 1e-4)
    u, s, v = torch.linalg.svd(best.full, full_matrices=False)
    naive = (u[:, :2] * s[:2]) @ v[:2]
    assert loss_of(naive, pairs, 1e-4) > best.loss(2) + 1.0


def test_without_a_ridge_few_pairs_are_met_by_the_smallest_map() -> None:
    x, y, weights = drawn((5, 11, 7))
    best = best_maps(x, y, weights, 0.0)
    torch.testing.assert_close(x @ best.full.T, y)
    torch.testing.assert_close(best.full, (torch.linalg.pinv(x) @ y).T)
    assert best.loss(5) == pytest.approx(0.0, abs=1e-9)


def test_a_weight_of_two_is_the_pair_twice() -> None:
    x, y, _ = drawn((9, 6, 4))
    twice = torch.tensor([2.0] + [1.0] * 8)
    one = best_maps(x, y, twice, 0.1)
    other = best_maps(torch.cat([x[:1], x]), torch.cat([y[:1], y]), torch.ones(10), 0.1)
    torch.testing.assert_close(one.full, other.full)


def test_a_rank_beyond_the_data_adds_zeros() -> None:
    pairs = drawn((3, 8, 8))
    own = best_maps(*pairs, 0.1).of_rank(6)
    assert own.a.shape == (6, 8)
    assert own.b.shape == (8, 6)
    assert not own.a[3:].any()
    torch.testing.assert_close(own.matrix, best_maps(*pairs, 0.1).full)


def test_a_map_maps_in_the_type_of_its_input() -> None:
    one = LowRank(torch.ones(1, 3), torch.ones(2, 1))
    assert one(torch.ones(4, 3, dtype=torch.float32)).dtype == torch.float32
    torch.testing.assert_close(one(torch.ones(4, 3)), torch.full((4, 2), 3.0))
