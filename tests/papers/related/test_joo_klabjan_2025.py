"""Effective sample size: planted efficiencies turn the verdicts, and Bayes is as efficient as itself."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from tests.recipes.planting import Planted, turning

from iclens.estimators.estimator import build_estimator
from iclens.papers.related.joo_klabjan_2025 import bayes_risks, effective_sizes
from iclens.recipes.contract import RECIPES
from iclens.recipes.lab_answers import fresh_prompts
from iclens.recipes.table import Table
from iclens.tasks.task import build_task

ENTRY = RECIPES["joo-klabjan-sample-size"]
SETTINGS = ENTRY.quick.settings
FEW, MOST = SETTINGS.d, SETTINGS.n_context


def planted(few=0.99, most=0.6, longer=0.4, shallow=0.3) -> Table:
    """Efficiencies of the deeper model after few demonstrations, at training's length and twice it."""
    draws = np.random.default_rng(0)
    rows = []
    for depth in SETTINGS.depths:
        for seed in range(SETTINGS.n_seeds):
            for n in range(1, 2 * MOST + 1):
                level = few if n < MOST else most if n < 2 * MOST else longer
                if depth == SETTINGS.depths[0] and n == MOST:
                    level = shallow
                level += 0.005 * draws.standard_normal()
                rows.append({"layers": depth, "seed": seed, "n": n, "efficiency": level, "size": level * n})
    return Table(row | {"risk": 1.0, "bayes_risk": 0.5} for row in rows)


def outcomes(table: Table) -> list[str]:
    return [verdict.outcome for verdict in ENTRY.check(table, SETTINGS)]


def test_planted_effects_are_found():
    assert outcomes(planted()) == ["holds"] * 4


def test_bayes_itself_is_as_efficient_everywhere():
    assert outcomes(planted(1.0, 1.0, 1.0, 1.0)) == ["holds", "does not hold", "does not hold", "does not hold"]


def test_the_bayes_risk_is_the_error_of_ridge_regression():
    task = build_task("linear", d=3, noise_std=0.5)
    prompt = fresh_prompts(task, 0, 20_000, 8)
    answers = build_estimator("ridge", {"alpha": 0.25}).prefixes(prompt.inputs, prompt.labels)
    errors = (answers - task.values(prompt.inputs, prompt.function)).square().mean((0, 2))
    found = bayes_risks(prompt, 0.5)
    torch.testing.assert_close(found, errors, rtol=0.04, atol=0)
    assert found[0] == pytest.approx(3)
    assert (found[1:] < found[:-1]).all()


def test_sizes_are_the_inverse_of_the_risk():
    bayes = torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    assert effective_sizes(bayes, bayes) == pytest.approx([0, 1, 2, 3])
    # Half way in the logarithm, worse than nothing, better than the most.
    asked = torch.tensor([2.0**0.5, 9.0, 0.1, -0.1], dtype=torch.float64)
    assert effective_sizes(asked, bayes) == pytest.approx([1.5, 0, 3, 3])


def test_bayes_with_half_of_the_demonstrations_has_half_of_the_size():
    prompt = fresh_prompts(build_task("linear", d=3, noise_std=0.5), 0, 100, 20)
    of_bayes = bayes_risks(prompt, 0.5)
    assert effective_sizes(of_bayes[[5, 8]], of_bayes) == pytest.approx([5, 8])


def test_a_tiny_run_is_checked_and_drawn():
    settings = dataclasses.replace(SETTINGS, n_context=4, steps=2, batch=4, n_prompts=30, n_seeds=2, width=8)
    table = ENTRY.run(settings)
    assert len(table) == 2 * 2 * 8
    assert (table.column("risk") > table.column("bayes_risk") - 0.2).all()
    # A model that was hardly trained uses next to nothing.
    assert table.where(n=8).column("efficiency").max() < 0.3
    verdicts = ENTRY.check(table, settings)
    assert {verdict.claim for verdict in verdicts} == {claim.statement for claim in ENTRY.claims}
    assert len(ENTRY.plot(table, settings).get_axes()) == 2


PLANTED = {
    "joo-klabjan-sample-size": [
        Planted(claim, planted, absent, also=())
        for claim, absent in zip(
            ENTRY.claims,
            (
                partial(planted, few=0.85),
                partial(planted, most=0.995, longer=0.4),
                partial(planted, longer=0.6),
                partial(planted, shallow=0.6),
            ),
            strict=True,
        )
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
