"""Sequences of Markov chains: frequencies are the chain's, and fixed chains are those of the seed."""

from __future__ import annotations

import torch

from iclens.estimators.markov_chains import stationary
from iclens.tasks import build_task
from iclens.tasks.markov_chains import sequences


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_label_is_the_next_input():
    prompt = build_task("markov-chains", n_states=5).sample(seeded(), (2, 3), 20)
    assert torch.equal(prompt.labels[..., :-1, :], prompt.inputs[..., 1:, :])
    assert (prompt.inputs.sum(-1) == 1).all()
    assert ((prompt.labels == 0) | (prompt.labels == 1)).all()


def test_transitions_have_the_frequencies_of_their_chain_and_states_its_stationary_ones():
    chain = build_task("markov-chains", n_states=3, n_chains=1).chains[0].double()
    states = sequences(seeded(), chain.expand(400, 3, 3), 500)
    counts = torch.zeros(3, 3, dtype=torch.float64)
    pairs = torch.stack([states[:, :-1].flatten(), states[:, 1:].flatten()])
    counts.index_put_(tuple(pairs), torch.ones(pairs.shape[1], dtype=torch.float64), accumulate=True)
    torch.testing.assert_close(counts / counts.sum(-1, keepdim=True), chain, atol=0.01, rtol=0)
    visited = torch.bincount(states[:, 100:].flatten(), minlength=3).double()
    torch.testing.assert_close(visited / visited.sum(), stationary(chain), atol=0.01, rtol=0)
    first = torch.bincount(states[:, 0], minlength=3) / 400
    torch.testing.assert_close(first, torch.full((3,), 1 / 3), atol=0.08, rtol=0)


def test_rows_of_fresh_chains_have_the_moments_of_their_dirichlet_distribution():
    for concentration in (0.3, 1.0, 4.0):
        task = build_task("markov-chains", n_states=4, n_chains=0, concentration=concentration)
        rows = task.sample_function(seeded(), (20_000,))["transitions"].double()
        torch.testing.assert_close(rows.sum(-1), torch.ones(20_000, 4, dtype=torch.float64))
        variance = (1 / 4) * (3 / 4) / (4 * concentration + 1)
        torch.testing.assert_close(rows.mean((0, 1)), torch.full((4,), 0.25, dtype=torch.float64), atol=0.005, rtol=0)
        expected = torch.full((4,), variance, dtype=torch.float64)
        torch.testing.assert_close(rows.var((0, 1)), expected, atol=0.002, rtol=0.05)


def test_prompts_of_fixed_chains_come_from_them_and_more_chains_begin_with_the_fewer():
    few, many = (build_task("markov-chains", n_chains=n, seed=3) for n in (2, 5))
    assert torch.equal(many.chains[:2], few.chains)
    assert not torch.equal(build_task("markov-chains", n_chains=2, seed=4).chains, few.chains)
    function = few.sample_function(seeded(), (50,))
    assert torch.equal(few.chains[function["index"]], function["transitions"])
    assert set(function["index"].tolist()) == {0, 1}
    fresh = build_task("markov-chains", n_chains=0).sample_function(seeded(), (50,))
    assert set(fresh) == {"transitions"}
    assert len({tuple(one.flatten().tolist()) for one in fresh["transitions"]}) == 50
