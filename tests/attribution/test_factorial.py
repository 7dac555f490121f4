"""Factorial designs of deletions: balance, exactness on games, and what the model says of all subsets."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.attribution.test_methods import Game, N, seeded
from tests.lens.word_learner import shared_lens

from iclens.attribution.shared.designs import design, main_effects, walsh

SIZES = [(1, 2), (2, 4), (3, 4), (5, 8), (7, 8), (8, 16), (15, 16), (32, 64)]
CLEAR = [(2, 4), (4, 8), (5, 16), (5, 32), (8, 16), (8, 32), (8, 64), (9, 32), (32, 64), (32, 128)]
GAMES = st.integers(0, 10_000)


def signs(n: int, n_runs: int, clear: bool = False) -> torch.Tensor:
    return walsh(n, n_runs, clear=clear).double() * 2 - 1


@pytest.mark.parametrize(
    ("n", "n_runs", "clear"), [*((*one, False) for one in SIZES), *((*one, True) for one in CLEAR)]
)
def test_every_demonstration_is_in_half_of_the_runs_and_any_two_agree_in_half(n, n_runs, clear):
    columns = signs(n, n_runs, clear)
    assert torch.equal(columns.T @ columns, n_runs * torch.eye(n).double())
    assert columns.sum(0).tolist() == [0.0] * n
    assert len(set(map(tuple, columns.tolist()))) == n_runs


@pytest.mark.parametrize(("n", "n_runs"), CLEAR)
def test_no_two_columns_of_a_clear_design_make_a_third(n, n_runs):
    columns = signs(n, n_runs, True)
    for i, j in itertools.combinations(range(n), 2):
        assert not bool(((columns[:, i] * columns[:, j]) @ columns).any())


@given(GAMES)
def test_effects_of_additive_games_are_exact(seed):
    effects = torch.randn(8, generator=seeded(seed)).double()
    keep = walsh(8, 16)[torch.randperm(16, generator=seeded(seed))[: 12 + seed % 5]]
    found = main_effects(keep, 3.0 + keep.double() @ effects)
    # Of a part in which two demonstrations cannot be told apart, the predictions are.
    torch.testing.assert_close(
        keep.double() @ (found - effects), (keep.double() @ (found - effects)).mean().expand(len(keep))
    )
    if int(torch.linalg.matrix_rank(torch.cat([torch.ones(len(keep), 1), keep.double()], 1))) == 9:
        torch.testing.assert_close(found, effects)


@given(GAMES)
def test_a_clear_design_tells_effects_from_interactions(seed):
    generator = seeded(seed)
    effects, pairs = (
        torch.randn(8, generator=generator).double(),
        torch.randn(8, 8, generator=generator).double().triu(1),
    )
    keep = walsh(8, 16, clear=True)
    x = keep.double() - 0.5
    margins = 1.0 + x @ effects + ((x @ pairs) * x).sum(1)
    torch.testing.assert_close(main_effects(keep, margins), effects)


def test_whole_designs_give_differences_of_means():
    keep, margins = walsh(8, 16), torch.randn(16, generator=seeded()).double()
    expected = torch.stack([margins[keep[:, i]].mean() - margins[~keep[:, i]].mean() for i in range(8)])
    torch.testing.assert_close(main_effects(keep, margins), expected)


@given(st.integers(1, 40), st.floats(0.5, 15.0), GAMES)
def test_a_design_keeps_to_its_passes(n, passes, seed):
    keep = design(n, passes, lambda some: float(some.sum()) / n + 0.1 * len(some), seeded(seed))
    assert float(keep.sum()) / n + 0.1 * len(keep) <= passes
    assert keep.shape[1] == n


def test_with_passes_to_spare_the_effects_are_those_of_all_subsets():
    value = torch.randn(2**N, generator=seeded(2)).double()
    powers = 2 ** torch.arange(N)
    game = Game(lambda row: value[int((row.long() * powers).sum())])
    keep = design(N, 1000.0, lambda some: float(len(some)), seeded())
    every = torch.tensor(list(itertools.product([False, True], repeat=N)))
    of_all = game.deletions(every).margins
    expected = torch.stack([of_all[every[:, i]].mean() - of_all[~every[:, i]].mean() for i in range(N)])
    torch.testing.assert_close(main_effects(keep, game.deletions(keep).margins), expected)


def test_on_a_model_it_is_the_fit_to_really_shortened_prompts():
    one = shared_lens()
    keep = design(N, 12.0, lambda some: one.passes.share_of(0, one.shortened(some)), seeded())
    expected = main_effects(keep, one.deletions(keep).margins)
    torch.testing.assert_close(one.score("factorial_12").values, expected)
