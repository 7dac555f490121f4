"""Trained linear attention: planted layers turn each verdict, and weights are read as what they compute."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from tests.recipes.planting import Planted, turning

from iclens.models.constructions import gradient_step
from iclens.models.model import build_model
from iclens.papers.related.linear_attention_step import best_step
from iclens.papers.related.von_oswald_2023 import of_weights
from iclens.recipes.contract import RECIPES
from iclens.recipes.lab_answers import answers_of, fresh_prompts, nearest_rate, one_step, squared_error
from iclens.recipes.table import Table
from iclens.tasks.task import build_task

ENTRY = RECIPES["von-oswald-trained"]
SETTINGS = ENTRY.quick.settings


def planted(**changes: float) -> Table:
    """Layers that are the step, but for `changes`."""
    best, expected = best_step(10, 10, 1.0)
    rows = []
    for seed in range(5):
        wobble = 1 + 0.001 * (seed - 2)
        right = {"risk": expected * wobble, "spd": 0.002 * wobble, "alignment": 0.999, "weight_cosine": 0.998}
        right |= {"step_risk": expected * wobble, "eta": best * wobble, "weight_eta": best * wobble}
        rows.append({"seed": seed, **right} | {name: value * wobble for name, value in changes.items()})
        rows += [{"seed": seed, "step": step, "loss": 3 / step} for step in (1, 2)]
    return Table(rows)


def test_layers_that_are_the_step_pass():
    assert [verdict.outcome for verdict in ENTRY.check(planted(), SETTINGS)] == ["holds"] * 4


TURNS = [
    ({"risk": 1.75}, 0),
    ({"risk": 1.55}, 0),
    ({"risk": 1.75, "step_risk": 1.75}, 0),
    ({"spd": 0.1}, 1),
    ({"alignment": 0.9}, 2),
    ({"weight_cosine": 0.9}, 3),
    ({"weight_eta": 1.7}, 3),
]


def test_the_construction_is_read_off_its_weights_and_random_weights_are_not_it():
    rate, cosine = of_weights(gradient_step(10, 1, 10, 1.3), 10)
    assert (rate, cosine) == pytest.approx((1.3, 1.0))
    _, cosine = of_weights(build_model("linear-attention", d=10, d_y=1, seeds=[0]), 10)
    assert abs(cosine) < 0.5


def test_what_no_answer_depends_on_is_not_compared():
    """The scores of the query's label, and a part of T that is antisymmetric in the two tokens."""
    model = gradient_step(10, 1, 10, 1.3)
    prompt = fresh_prompts(build_task("linear", d=10, inputs="uniform"), 0, 50, 10)
    before = answers_of(model.double(), prompt)
    with torch.no_grad():
        dict(model.named_parameters())["blocks.0.qkv.weight"][0, 10, :11] = 5.0
    torch.testing.assert_close(answers_of(model, prompt), before)
    assert of_weights(model, 10) == pytest.approx((1.3, 1.0))


def test_a_step_is_found_by_projection():
    prompt = fresh_prompts(build_task("linear", d=4), 0, 100, 6)
    unit = one_step(prompt)
    torch.testing.assert_close(unit, answers_of(gradient_step(4, 1, 6, 1.0).double(), prompt)[:, -1])
    assert nearest_rate(0.7 * unit, unit) == pytest.approx(0.7)
    other = one_step(prompt, debiased=True)
    rate = nearest_rate(unit, other)
    assert squared_error(unit, rate * other) < squared_error(unit, 1.05 * rate * other)


def test_fresh_prompts_are_the_same_for_the_same_seed_only():
    task = build_task("linear", d=4)
    first, again, other = (fresh_prompts(task, seed, 3, 2).inputs for seed in (0, 0, 1))
    assert first.dtype == torch.float64
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_tiny_run_is_checked_and_drawn_and_has_not_found_the_step():
    settings = dataclasses.replace(SETTINGS, steps=3, batch=4, n_prompts=50, n_sensitivities=10, n_seeds=2)
    table = ENTRY.run(settings)
    assert table == ENTRY.run(settings)
    assert np.isfinite(table.only("risk").column("risk")).all()
    verdicts = ENTRY.check(table, settings)
    assert {verdict.claim for verdict in verdicts} == {claim.statement for claim in ENTRY.claims}
    assert not any(verdict.holds for verdict in verdicts)
    assert len(ENTRY.plot(table, settings).get_axes()) == 2


PLANTED = {
    "von-oswald-trained": [
        Planted(ENTRY.claims[place], planted, partial(planted, **changes), also=()) for changes, place in TURNS
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
