"""Markov chains: planted models that keep to one algorithm, or to none of them, turn the verdicts."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from tests.recipes.planting import Planted, turning

from iclens.papers.related.four_algorithms import ALGORITHMS, divergence, explained_share, mixture_weights, predictions
from iclens.papers.related.park_2024 import kept_steps, nearest
from iclens.recipes.contract import RECIPES
from iclens.recipes.lab_answers import fresh_prompts
from iclens.recipes.table import Table
from iclens.tasks.task import build_task

ENTRY = RECIPES["park-markov-chains"]
SETTINGS = ENTRY.quick.settings
FEW, MANY = SETTINGS.pools[0], SETTINGS.pools[-1]
FIRST, LAST = kept_steps(SETTINGS)[0], kept_steps(SETTINGS)[-1]
UNIGRAM, RETRIEVAL, INFERENCE = "unigram retrieval", "bigram retrieval", "bigram inference"


def phases(pool, step, length):
    """What a model is nearest to, as the effects are planted."""
    if length == "short" or step < LAST:
        return UNIGRAM
    return RETRIEVAL if pool == FEW else INFERENCE


def planted(of=phases, share=0.95, spread=0.01) -> Table:
    """Models at a distance of 0.01 from one algorithm and 0.1 from the others."""
    draws = np.random.default_rng(0)
    rows = []
    for pool in SETTINGS.pools:
        for seed in range(SETTINGS.n_seeds):
            for step in kept_steps(SETTINGS):
                for kind in ("pool", "fresh"):
                    cells = {"chains": pool, "seed": seed, "step": step, "prompts": kind}
                    rows.append({**cells, "explained": share - 0.01 * seed})
                    for length in ("short", "long"):
                        for name in ALGORITHMS:
                            away = 0.01 if name == of(pool, step, length) else 0.1
                            away += spread * draws.standard_normal()
                            rows.append({**cells, "context": length, "algorithm": name, "divergence": away})
    return Table(rows)


def outcomes(table: Table) -> list[str]:
    return [verdict.outcome for verdict in ENTRY.check(table, SETTINGS)]


def test_planted_phases_are_found():
    assert outcomes(planted()) == ["holds"] * 4


def test_a_model_that_keeps_to_one_algorithm():
    assert outcomes(planted(lambda *_: INFERENCE)) == ["does not hold", "does not hold", "holds", "does not hold"]


def test_a_change_with_some_numbers_of_chains_is_a_condition():
    found = ENTRY.check(planted(lambda pool, *rest: phases(pool, *rest) if pool == FEW else INFERENCE), SETTINGS)
    assert [verdict.outcome for verdict in found] == ["holds under", "holds under", "holds", "holds"]
    assert found[0].condition == f"it is trained on {FEW} chains"


def test_a_change_within_the_noise_is_none():
    assert outcomes(planted(spread=0.3))[:2] == ["does not hold", "does not hold"]


def test_the_weights_of_a_mixture_are_found():
    prompt = fresh_prompts(build_task("markov-chains"), 0, 20, 12)
    said = predictions(build_task("markov-chains"), prompt)
    weights = [0.5, 0.0, 0.2, 0.3]
    mixed = sum(weight * one for weight, one in zip(weights, said.values(), strict=True))
    np.testing.assert_allclose(mixture_weights(said, mixed), weights, atol=1e-6)
    assert explained_share(said, mixed) == pytest.approx(1, abs=1e-9)
    # What is beyond the mixture is no part of it: a model that is certain of the wrong state.
    wrong = torch.nn.functional.one_hot(prompt.labels.argmin(-1), 4).double()
    assert explained_share(said, wrong) < 0.5


def test_the_divergence_is_zero_from_itself_and_that_of_two_coins():
    coin = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    assert divergence(coin, coin.log()) == pytest.approx(0, abs=1e-15)
    fair = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    assert divergence(coin, fair.log()) == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5))


def test_the_bayes_predictor_is_nearest_to_itself():
    task = build_task("markov-chains", n_chains=4)
    said = predictions(task, fresh_prompts(task, 0, 50, 40))
    for model in ALGORITHMS:
        rows = Table({"algorithm": name, "divergence": divergence(p, said[model].log())} for name, p in said.items())
        assert nearest(rows) == model


def test_a_tiny_run_is_checked_and_drawn():
    settings = dataclasses.replace(
        SETTINGS, pools=(2, 4), steps=100, n_kept=3, batch=4, n_prompts=20, n_seeds=2, width=8, n_context=16
    )
    table = ENTRY.run(settings)
    assert kept_steps(settings) == [1, 10, 100]
    assert len(table) == 2 * 2 * 3 * 2 * (1 + 2 * 4)
    assert table.only("divergence").column("divergence").min() > 0
    verdicts = ENTRY.check(table, settings)
    assert {verdict.claim for verdict in verdicts} == {claim.statement for claim in ENTRY.claims}
    assert len(ENTRY.plot(table, settings).get_axes()) == 4


PLANTED = {
    "park-markov-chains": [
        Planted(ENTRY.claims[0], planted, partial(planted, lambda pool, step, length: phases(pool, LAST, length))),
        Planted(ENTRY.claims[1], planted, partial(planted, lambda pool, step, length: phases(pool, step, "long"))),
        Planted(ENTRY.claims[2], planted, partial(planted, share=0.7)),
        Planted(ENTRY.claims[3], planted, partial(planted, lambda pool, *rest: phases(MANY, *rest))),
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
