"""Softmax against linear attention: planted effects are found, their absence turns the verdict."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from tests.recipes.planting import Planted, turning

from iclens.models.constructions import gradient_step
from iclens.papers.ren_liu_2024.attention_cost import FUSED, LINEAR, MATRIX, attend_once, slope_over_length
from iclens.papers.ren_liu_2024.sequence_length import ELU, SOFTMAX, LengthSettings, SequenceLength
from iclens.recipes.contract import silent
from iclens.recipes.lab_answers import excess_error
from iclens.recipes.table import Table
from iclens.tasks.task import build_task

LENGTHS = (8, 64, 512)
RECIPE = SequenceLength()


def planted(advantage=lambda layers, n: 1.0, time_power=0.0, memory_power=0.0, level=1.0):
    """Errors of linear attention `advantage` times softmax's; costs of whole-matrix softmax as a power of n."""
    draws = np.random.default_rng(0)
    rows = []
    for n_layers, n, seed in itertools.product((1, 2), LENGTHS, range(5)):
        for name in (SOFTMAX, LINEAR, ELU):
            error = (0.1 if name == SOFTMAX else 0.1 * advantage(n_layers, n)) * (1 + 0.05 * draws.standard_normal())
            row = {"what": "error", "n_layers": n_layers, "length": n, "attention": name, "seed": seed}
            rows.append(row | {"error": error, "relative": error / 5})
    for n, kernel in itertools.product(LENGTHS, (FUSED, MATRIX, LINEAR)):
        for pair in range(5):
            slower = level * n**time_power if kernel == MATRIX else 1.0
            milliseconds = slower * (1 + 0.02 * draws.standard_normal())
            row = {"what": "cost", "length": n, "kernel": kernel, "pair": pair}
            rows.append(row | {"milliseconds": milliseconds})
        larger = n**memory_power if kernel == MATRIX else 1.0
        rows.append({"what": "memory", "length": n, "kernel": kernel, "mebibytes": larger})
    return Table(rows)


def outcomes(**effects):
    return [verdict.outcome for verdict in RECIPE.check(planted(**effects), LengthSettings())]


def test_an_advantage_that_grows_is_found():
    assert outcomes(advantage=lambda layers, n: n**0.5)[:2] == ["holds", "holds"]
    assert outcomes(advantage=lambda layers, n: 2.0)[:2] == ["holds", "does not hold"]
    assert outcomes(advantage=lambda layers, n: n**0.5 if layers == 2 else 1.0)[:2] == ["holds under"] * 2
    assert outcomes(advantage=lambda layers, n: n**-0.5)[:2] == ["does not hold"] * 2


def test_slopes_are_corrected_for_both_depths():
    """With four seeds t is 3.18 for one slope and 4.18 for two: slopes of 3.6 standard errors are not enough."""
    draws = np.random.default_rng(1).standard_normal(4)
    slopes = 1 + (draws - draws.mean()) / draws.std(ddof=1) * 2 / 3.6
    one, two = (slope_over_length([10.0, 1000.0], np.stack([0 * slopes, 2 * slopes]), n) for n in (1, 2))
    assert one.low > 0 > two.low
    assert one.mean == pytest.approx(1.0)


def test_the_excess_error_is_without_the_noise_of_the_label():
    """Of a gradient step, whose excess is known in closed form; the label's noise is 100 times larger."""
    n, rate = 40, 40 / (40 + 3 + 1 + 25.0)
    task = build_task("linear", d=3, noise_std=5.0)
    model = gradient_step(3, 1, n, rate).double()
    found = [excess_error(model, task, seed, 1999, n) for seed in range(3)]
    expected = build_task("anisotropic", d=3, decay=0.0, noise_std=5.0).one_step_risk(n)
    assert np.mean(found) == pytest.approx(expected, rel=0.1)
    assert found[0] == excess_error(model, task, 0, 1999, n)


def test_an_excess_far_below_the_noise_is_measured_within_its_tolerance():
    """0.03 beside a noise of 0.25: 4,000 prompts tell it to a twentieth, 1,000 to a tenth."""
    n = 1024
    task = build_task("linear", d=5, noise_std=0.5)
    model = gradient_step(5, 1, n, n / (n + 6.25)).double()
    found = np.array([excess_error(model, task, seed, 1000, n) for seed in range(3)])
    expected = build_task("anisotropic", d=5, decay=0.0, noise_std=0.5).one_step_risk(n)
    assert found.std(ddof=1) < 2 * 0.05 * expected
    assert found.mean() == pytest.approx(expected, rel=0.1)


def test_costs_that_grow_are_found_where_they_do():
    found = RECIPE.check(planted(time_power=1.0, memory_power=1.0), LengthSettings())[2:]
    assert [verdict.condition for verdict in found] == [f"softmax is computed as {MATRIX}"] * 2
    assert outcomes(level=10.0)[2] == "does not hold"


def test_memory_that_cannot_be_read_is_not_judged():
    rows = Table(row for row in planted() if row.get("mebibytes") is None)
    assert RECIPE.check(rows, LengthSettings())[3].outcome == "cannot be tested here"


@pytest.mark.parametrize("name", [FUSED, MATRIX, LINEAR])
def test_every_attention_is_timed_forward_and_backward(name):
    before = torch.get_rng_state()
    assert attend_once(name, 16, 1, 4) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tiny_run_is_checked_and_drawn_from_its_table_alone():
    class Told(SequenceLength):
        peaks = staticmethod(lambda *given: [1.0, 2.0])

    recipe = Told()
    settings = LengthSettings(
        lengths=(4, 8),
        lengths_two=(4, 8),
        d=2,
        steps=2,
        batch=2,
        n_seeds=2,
        n_prompts=60,
        cost_lengths=(16, 32),
        n_pairs=2,
    )
    table = recipe.run(settings, silent)
    assert len(recipe.check(table, settings)) == 4
    figure = recipe.plot(Table.from_json_columns(table.to_columns()), settings)
    assert all(ax.get_xlabel() for ax in figure.axes)
    again = recipe.run(settings, silent)
    assert table.where(what="error") == again.where(what="error")


def test_only_what_is_timed_runs_alone():
    settings = LengthSettings()
    parts = RECIPE.parts(settings)
    alone = [part["length"] for part in parts if RECIPE.alone(part, settings)]
    assert alone == list(settings.cost_lengths)


_GROWS = partial(planted, advantage=lambda layers, n: n**0.5, time_power=1.0, memory_power=1.0)
PLANTED = {
    "softmax-against-linear": [
        *(Planted(claim, _GROWS, planted, LengthSettings()) for claim in RECIPE.claims),
        Planted(RECIPE.claims[1], _GROWS, partial(planted, advantage=lambda layers, n: 2.0), LengthSettings()),
        Planted(RECIPE.claims[2], _GROWS, partial(planted, level=10.0), LengthSettings()),
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
