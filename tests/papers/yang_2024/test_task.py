import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.errors import UserError
from iclens.estimators.estimator import build_estimator
from iclens.papers.yang_2024.closed_forms import (
    best_possible,
    excess,
    optimum,
    population_loss,
    prediction_gap,
    shown_moment,
    smallest_loss,
    z_bar,
)
from iclens.papers.yang_2024.task import Dictionary
from iclens.tasks.task import build_task


def stacked(n_runs=8, *, d=100, m=20, n_tokens=200, n_prompt=30, tau=0.01, normalised=True):
    drawn = [Dictionary.draw(d, m, n_tokens, n_prompt, tau, seed, normalised=normalised) for seed in range(n_runs)]
    return Dictionary.stack(drawn)


SIZES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 12)).flatmap(
    lambda sizes: st.tuples(*map(st.just, sizes), st.integers(1, sizes[2]))
)


@settings(deadline=None)
@given(SIZES, st.floats(0.01, 10), st.integers(0, 1000))
def test_the_optimum_is_the_displayed_formula(sizes, tau, seed):
    d, m, n_tokens, n = sizes
    dictionary = Dictionary.draw(d, m, n_tokens, n, tau, seed, normalised=False)
    z, z_all = dictionary.features[:n].T, dictionary.features.T
    moment = z.T @ z + m * tau * torch.eye(n)
    right = z.T @ z_all + torch.cat([m * tau * torch.eye(n), torch.zeros(n, n_tokens - n)], dim=1)
    found = optimum(dictionary)
    torch.testing.assert_close(found, torch.linalg.solve(moment, right), atol=1e-8, rtol=1e-8)
    assert torch.equal(found[:, :n], torch.eye(n))
    torch.testing.assert_close(z_bar(dictionary) @ z_bar(dictionary), shown_moment(dictionary))


@settings(deadline=None)
@given(SIZES, st.floats(0.01, 10), st.integers(0, 1000))
def test_nothing_linear_in_the_labels_beats_the_optimum(sizes, tau, seed):
    d, m, n_tokens, n = sizes
    dictionary = Dictionary.draw(d, m, n_tokens, n, tau, seed, normalised=False)
    best = population_loss(dictionary, optimum(dictionary))
    other = optimum(dictionary) + torch.randn(n, n_tokens, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(best, smallest_loss(dictionary), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(
        population_loss(dictionary, other), best + excess(dictionary, other), atol=1e-9, rtol=1e-9
    )
    assert population_loss(dictionary, best_possible(dictionary)) >= best - 1e-9
    if n == m:
        assert torch.equal(best_possible(dictionary), optimum(dictionary))


# Independent check values, computed from the formulas on dictionaries of their own; in domain, times 1e-3.
FIG_3 = {
    50: 7.0,
    60: 9.0,
    70: 10.9,
    80: 10.5,
    90: 5.1,
    95: 1.5,
    105: 1.3,
    110: 3.8,
    120: 7.3,
    130: 7.6,
    140: 6.7,
    150: 5.4,
}


@pytest.mark.parametrize("n_prompt", FIG_3)
def test_fig_3s_check_values(n_prompt):
    dictionary = stacked(8, m=100, n_prompt=n_prompt)
    gap = 1000 * prediction_gap(dictionary, optimum(dictionary), best_possible(dictionary))
    # One dictionary against the spread of eight.
    assert abs(FIG_3[n_prompt] - gap.mean()) <= 4 * gap.std()
    shifted = 1000 * prediction_gap(dictionary, optimum(dictionary), best_possible(dictionary), shifted=True)
    assert 4.5 < shifted.mean() / gap.mean() < 5.5


def test_fig_3_is_zero_at_n_equal_to_m_and_m_shaped():
    means = {}
    for n_prompt in (50, 75, 100, 125, 150):
        dictionary = stacked(4, m=100, n_prompt=n_prompt)
        means[n_prompt] = prediction_gap(dictionary, optimum(dictionary), best_possible(dictionary)).mean()
    assert means[100] == 0
    assert means[75] > means[50] > 0
    assert means[125] > means[150] > 0


def test_check_values_of_figs_2_and_4():
    dictionary = stacked(20)
    start, least = excess(dictionary, torch.zeros(20, 30, 200)), smallest_loss(dictionary)
    # Independent check values, of one dictionary: 9.468 and 0.2746.
    assert abs(start.mean() - 9.468) < 4 * start.std()
    assert abs(least.mean() - 0.2746) < 4 * least.std()
    assert start.std() < 0.05 * start.mean()


@pytest.mark.parametrize("shifted", [False, True])
def test_second_moments_are_those_of_drawn_labels(shifted):
    dictionary = stacked(2, d=3, m=4, n_tokens=6, n_prompt=3, tau=0.5)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    labels = dictionary.sample_labels(generators, 400_000, shifted=shifted)
    products = labels.mT @ labels / labels.shape[1]
    spread = torch.einsum("rbi,rbj->rij", labels**2, labels**2) / labels.shape[1] - products**2
    error = (products - dictionary.second_moment(shifted=shifted)) / (spread / labels.shape[1]).sqrt()
    assert error.abs().max() < 4.5


def test_the_noise_is_that_of_features_with_noise_in_every_entry():
    dictionary = Dictionary.draw(2, 3, 4, 2, 0.7, 0, normalised=True)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 3, generator=generator)
    errors = 0.7**0.5 * torch.randn(200_000, 4, 3, generator=generator)
    plain = (dictionary.features + errors) @ weight[0]
    noise = torch.randn(200_000, 4, generator=generator)
    ours = dictionary.labels_of(weight.expand(200_000, 3), noise)
    assert ((plain.mean(0) - ours.mean(0)) / (plain.std(0) / 200_000**0.5)).abs().max() < 6
    torch.testing.assert_close(plain.std(0), ours.std(0), rtol=0.02, atol=0)
    assert torch.corrcoef(ours.T).fill_diagonal_(0).abs().max() < 0.02


def test_a_run_of_a_stack_draws_as_it_would_alone():
    dictionary = stacked(3, d=3, m=2, n_tokens=5, n_prompt=2)
    together = dictionary.sample_labels([torch.Generator().manual_seed(seed) for seed in range(3)], 4)
    alone = Dictionary.stack([dictionary[1]]).sample_labels([torch.Generator().manual_seed(1)], 4)
    assert torch.equal(together[1], alone[0])


def test_normalising_changes_tokens_only_in_their_norm():
    raw, unit = (Dictionary.draw(5, 3, 7, 2, 0.1, 3, normalised=flag) for flag in (False, True))
    assert torch.equal(raw.features, unit.features)
    torch.testing.assert_close(unit.tokens.norm(dim=-1), torch.ones(7))
    torch.testing.assert_close(raw.tokens / raw.tokens.norm(dim=-1, keepdim=True), unit.tokens)


def test_a_prompt_shows_the_first_tokens_and_a_label_belongs_to_its_token():
    task = build_task("dictionary", d=4, n_features=3, n_tokens=6, tau=0.5, seed=2)
    prompt = task.sample(torch.Generator().manual_seed(0), 300, 4)
    assert torch.equal(prompt.xs, task.dictionary.tokens[:4].expand(300, 4, 4))
    asked = task.indices(prompt.inputs)[:, -1]
    assert set(asked.tolist()) == set(range(6))
    seen = asked < 4
    assert torch.equal(prompt.target[seen, 0], prompt.ys[seen, asked[seen], 0])
    clean = task.values(prompt.inputs, prompt.function)
    assert (clean - prompt.labels).std() > 0.1


def test_the_loss_at_the_query_is_twice_the_papers():
    task = build_task("dictionary", d=4, n_features=3, n_tokens=8, tau=0.2, seed=1)
    dictionary = Dictionary(task.dictionary.tokens, task.dictionary.features, 5, 0.2)
    prompt = task.sample(torch.Generator().manual_seed(0), 200_000, 5)
    answers = prompt.ys[..., 0] @ optimum(dictionary)
    at_query = answers.gather(1, task.indices(prompt.inputs)[:, -1:])
    squares = (at_query - prompt.target).square()
    assert abs(squares.mean() - 2 * smallest_loss(dictionary)) < 4.5 * squares.std() / 200_000**0.5


def test_the_named_optimum_is_the_closed_form():
    task = build_task("dictionary", d=4, n_features=3, n_tokens=8, tau=0.2, seed=1, normalised=True)
    optimal = task.optimal()
    prompt = task.sample(torch.Generator().manual_seed(0), 50, 5)
    found = build_estimator(optimal.estimator, optimal.options).predict(prompt)
    dictionary = Dictionary(task.dictionary.tokens, task.dictionary.features, 5, 0.2)
    expected = (prompt.ys[..., 0] @ optimum(dictionary)).gather(1, task.indices(prompt.inputs)[:, -1:])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_prompt": 9}, "n_prompt=9 must lie between 1 and the 8 tokens"),
        ({"n_prompt": 0}, "n_prompt=0"),
        ({"tau": -1.0}, "tau=-1.0"),
        ({"tau": math.nan}, "tau=nan"),
        ({"n_features": 0}, "n_features=0"),
    ],
)
def test_impossible_dictionaries_are_refused(options, message):
    given = {"d": 4, "n_features": 3, "n_tokens": 8, "n_prompt": 5, "tau": 0.1, "seed": 0} | options
    with pytest.raises(UserError, match=message):
        Dictionary.draw(**given, normalised=True)


def test_without_noise_more_tokens_than_features_have_no_optimum():
    with pytest.raises(UserError, match="choose tau above 0"):
        optimum(Dictionary.draw(4, 2, 8, 5, 0.0, 0, normalised=True))
    few = Dictionary.draw(4, 6, 8, 5, 0.0, 0, normalised=True)
    torch.testing.assert_close(optimum(few), best_possible(few))


def test_foreign_tokens_and_too_long_prompts_are_refused():
    task = build_task("dictionary", d=4, n_features=3, n_tokens=6)
    with pytest.raises(UserError, match="not a token of the dictionary"):
        task.indices(torch.zeros(1, 1, 4))
    with pytest.raises(UserError, match="more than the 6 tokens"):
        task.sample(torch.Generator(), 2, 7)
    with pytest.raises(UserError, match="Did you mean 'n_tokens'"):
        build_task("dictionary", n_token=6)
    with pytest.raises(UserError, match="must agree"):
        Dictionary.stack([Dictionary.draw(2, 2, 3, n, 0.1, 0, normalised=True) for n in (1, 2)])
