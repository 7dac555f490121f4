"""Two softmax heads: planted runs turn each verdict, and ω and μ are read as what the heads compute."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from tests.recipes.planting import Planted

from iclens.models.bare_attention import SoftmaxHeads
from iclens.models.constructions import debiased_gradient_step
from iclens.recipes.recipe import RECIPES
from iclens.recipes.related_he import EXPECTED, of_heads
from iclens.recipes.related_runs import answers_of, fresh_prompts, nearest_rate, one_step, squared_error
from iclens.recipes.table import Table
from iclens.tasks.task import build_task

ENTRY = RECIPES["he-debiased"]
SETTINGS = ENTRY.quick.settings


def planted(n_same: int = 0, **changes: float) -> Table:
    """Runs as they should be but for `changes`, `n_same` of them with both heads of one sign."""
    rows = [
        {"heads": 1, "reference": name, "reference_error": EXPECTED[name]}
        for name in ("plain step", "debiased step", "Bayes")
    ]
    for heads in (1, 2):
        for seed in range(5):
            wobble = 1 + 0.002 * (seed - 2)
            sign = 1.0 if heads == 2 and seed < n_same else -1.0
            row = {
                "error": EXPECTED["one head"] if heads == 1 or sign > 0 else EXPECTED["two heads"],
                "rate": 0.87,
                "weight_rate": 0.88,
                "from_debiased": 0.005,
                "from_plain": 0.02,
                "omega_0": 0.22,
                "mu_0": 2.0,
            }
            if heads == 2:
                row |= {"omega_1": sign * 0.21, "mu_1": sign * 2.05}
                row |= changes
            row = {name: value * wobble for name, value in row.items()}
            rows.append({"heads": heads, "seed": seed, "opposite": sign < 0, **row})
            rows += [{"heads": heads, "seed": seed, "step": step, "loss": 1 / step} for step in (1, 2)]
    return Table(rows)


def outcomes(table: Table) -> list[str]:
    return [verdict.outcome for verdict in ENTRY.check(table, SETTINGS)]


def test_heads_that_are_the_step_pass():
    assert outcomes(planted()) == ["holds"] * 3


def test_runs_with_equal_signs_are_named_as_the_condition():
    verdicts = ENTRY.check(planted(n_same=2), SETTINGS)
    assert [verdict.outcome for verdict in verdicts] == ["holds under"] * 3
    assert "3 of 5 runs" in verdicts[1].condition
    ENTRY.plot(planted(n_same=2), SETTINGS)


def test_equal_signs_in_most_or_all_runs():
    assert outcomes(planted(n_same=3))[0] == "does not hold"
    assert outcomes(planted(n_same=5)) == ["does not hold", "cannot be tested here", "cannot be tested here"]


TURNS = [
    ({"omega_1": -0.35}, 0),
    ({"mu_1": -3.0}, 0),
    ({"from_debiased": 0.1, "from_plain": 0.2}, 1),
    ({"from_plain": 0.004}, 1),
    ({"weight_rate": 1.1}, 1),
    ({"error": 0.26}, 2),
]


@pytest.mark.parametrize(("changes", "place"), TURNS)
def test_each_verdict_turns(changes, place):
    assert [outcome == "holds" for outcome in outcomes(planted(**changes))] == [at != place for at in range(3)]


def test_omega_and_mu_of_the_construction():
    model = debiased_gradient_step(5, 1, 0.1, 2.0).double()
    omegas, mus = of_heads(model, 5, 2)
    torch.testing.assert_close(omegas, torch.tensor([0.1, -0.1]), rtol=1e-6, atol=0)
    torch.testing.assert_close(mus, torch.tensor([2.0, -2.0]), rtol=1e-6, atol=0)
    prompt = fresh_prompts(build_task("linear", d=5), 0, 100, 40)
    answers, step = answers_of(model, prompt)[:, -1], one_step(prompt, debiased=True)
    assert nearest_rate(answers, step) == pytest.approx(float((omegas * mus).sum()), rel=0.1)
    assert squared_error(answers, 0.4 * step) < 0.01 * squared_error(answers, 0 * answers)


def test_omega_is_the_slope_of_any_head():
    model = SoftmaxHeads(5, 1, [3]).double()
    with torch.no_grad():
        dict(model.named_parameters())["blocks.0.qkv.weight"].mul_(1e-3)
    omegas, mus = of_heads(model, 5, 2)
    assert omegas.shape == mus.shape == (2,)
    assert float(omegas.abs().max()) < 1e-6


def test_a_tiny_run_is_checked_and_drawn():
    settings = dataclasses.replace(SETTINGS, steps=2, batch=4, n_prompts=40, n_seeds=2, n_context=6)
    table = ENTRY.run(settings)
    verdicts = ENTRY.check(table, settings)
    assert {verdict.claim for verdict in verdicts} == {claim.statement for claim in ENTRY.claims}
    assert not verdicts[2].holds
    assert len(table.only("reference")) == 3
    assert len(ENTRY.plot(table, settings).get_axes()) == 2


PLANTED = {
    "he-debiased": [Planted(ENTRY.claims[place], planted, partial(planted, **changes)) for changes, place in TURNS]
}
