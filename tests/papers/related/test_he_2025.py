"""Two softmax heads: planted runs turn each verdict, and ω and μ are read as what the heads compute."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from tests.recipes.planting import Planted, turning

from iclens.models.bare_attention import SoftmaxHeads
from iclens.models.constructions import debiased_gradient_step
from iclens.papers.related.he_2025 import HeadsSettings, expected_errors, of_heads
from iclens.recipes.contract import RECIPES
from iclens.recipes.lab_answers import answers_of, fresh_prompts, nearest_rate, one_step, squared_error
from iclens.recipes.table import Table
from iclens.tasks.task import build_task

ENTRY = RECIPES["he-debiased"]
SETTINGS = ENTRY.quick.settings
EXPECTED = expected_errors(SETTINGS)
REFERENCES = ("plain step", "debiased step", "Bayes")


def planted(n_same: int = 0, wobbling: float = 0.002, off: dict[str, float] | None = None, **changes: float) -> Table:
    """Runs as they should be but for `changes`, `n_same` of them with both heads of one sign.

    `wobbling` sets seeds apart, and `off` moves the errors of references by these factors.
    """
    rows = []
    for heads in (1, 2):
        for seed in range(5):
            wobble = 1 + wobbling * (seed - 2)
            if heads == 1:
                rows += [
                    {"heads": 1, "seed": seed, "reference": name, "reference_error": level * wobble}
                    for name in REFERENCES
                    for level in [EXPECTED[name] * (off or {}).get(name, 1.0)]
                ]
            sign = 1.0 if heads == 2 and seed < n_same else -1.0
            row = {
                "error": EXPECTED["one head"] if heads == 1 or sign > 0 else EXPECTED["two heads"],
                "rate": 0.87,
                "weight_rate": 0.88,
                "from_debiased": 0.005,
                "from_plain": 0.02,
                "omega_0": 0.22,
                "mu_0": 2.0,
                **{f"{of}_cosine_{head}": 0.99 for of in ("score", "output") for head in range(heads)},
            }
            if heads == 2:
                row |= {"omega_1": sign * 0.21, "mu_1": sign * 2.05}
                row |= changes
            row = {name: value * wobble for name, value in row.items()}
            rows.append({"heads": heads, "seed": seed, **row})
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
    ({"score_cosine_1": 0.9}, 0),
    ({"output_cosine_0": 0.9}, 0),
    ({"error": 0.26}, 2),
    ({"wobbling": 0.02}, 2),
    *(({"off": {name: factor}}, 2) for name in REFERENCES for factor in (0.97, 1.03)),
]


def test_heads_whose_signs_cancel_are_no_step():
    """(+, −) with (−, +) is a step away from the demonstrations."""
    verdict = ENTRY.check(planted(mu_0=-2.0, mu_1=2.0), SETTINGS)[0]
    assert (verdict.outcome, verdict.numbers) == ("does not hold", "0 of 5 runs")


def test_expected_errors_of_both_steps_are_those_of_fresh_prompts():
    """The relative standard error is that of a square of a normal variable: √2 over the root of the prompts."""
    settings = HeadsSettings()
    task = build_task("linear", d=5, noise_std=0.1**0.5, weight_std=5**-0.5)
    prompt = fresh_prompts(task, 3, 10000, settings.n_context)
    truth = task.values(prompt.query.unsqueeze(-2), prompt.function)[:, 0]
    expected = expected_errors(settings)
    for name, debiased in (("plain step", False), ("debiased step", True)):
        step = one_step(prompt, debiased=debiased)
        error = squared_error(nearest_rate(truth, step) * step, truth) + settings.noise_variance
        assert error == pytest.approx(expected[name], rel=0.02)
    assert expected["debiased step"] == pytest.approx(0.1 + 6.5 / 45.5)
    assert expected["plain step"] == pytest.approx(0.1 + 6.5 / 46.5)


def test_omega_and_mu_of_the_construction():
    model = debiased_gradient_step(5, 1, 0.1, 2.0).double()
    found = of_heads(model, 5, 2)
    omegas, mus = found["omega"], found["mu"]
    for name in ("score_cosine", "output_cosine"):
        torch.testing.assert_close(found[name], torch.ones(2), rtol=1e-6, atol=0)
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
    found = of_heads(model, 5, 2)
    assert all(part.shape == (2,) for part in found.values())
    assert float(found["omega"].abs().max()) < 1e-6
    assert float(found["score_cosine"].max()) < 0.9


def test_a_tiny_run_is_checked_and_drawn():
    settings = dataclasses.replace(SETTINGS, steps=2, batch=4, n_prompts=40, n_seeds=2, n_context=6)
    table = ENTRY.run(settings)
    verdicts = ENTRY.check(table, settings)
    assert {verdict.claim for verdict in verdicts} == {claim.statement for claim in ENTRY.claims}
    assert not verdicts[2].holds
    assert len(table.only("reference")) == 3 * settings.n_seeds
    # Every run has prompts of its own: the references of two seeds differ.
    assert len(set(table.where(reference="Bayes").cells("reference_error"))) == settings.n_seeds
    assert len(ENTRY.plot(table, settings).get_axes()) == 2


PLANTED = {
    "he-debiased": [
        Planted(ENTRY.claims[place], planted, partial(planted, **changes), also=()) for changes, place in TURNS
    ]
    + [Planted(ENTRY.claims[0], planted, partial(planted, mu_0=-2.0, mu_1=2.0))]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
