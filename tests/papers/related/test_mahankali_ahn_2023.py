"""The risk of one step: planted layers turn each verdict; weights are read as what they compute."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from tests.recipes.planting import Planted, turning

from iclens.models.constructions import gradient_step
from iclens.models.model import build_model
from iclens.papers.related.linear_layer import step_matrix, step_tensor, symmetric_tensor
from iclens.recipes.contract import RECIPES
from iclens.recipes.lab_answers import answers_of, fresh_prompts
from iclens.recipes.table import Table
from iclens.tasks.task import build_task

ENTRY = RECIPES["mahankali-ahn-risk"]
SETTINGS = ENTRY.quick.settings


def planted(n_failed: int = 0, **changes: float) -> Table:
    """Layers that reach the best step but for `changes`, which are factors; the first `n_failed` do not."""
    rows = []
    for d, n, noise, decay in SETTINGS.cases:
        expected = d * (d + 1 + noise) / (n + d + 1 + noise)
        for seed in range(5):
            step = expected * (1 + 0.01 * (seed - 2))
            row = {"trained": 1.01 * step, "step": step, "smaller": 1.05 * step, "larger": 1.05 * step}
            row |= {"ridge": 0.03 * step, "expected": expected, "cosine": 0.99, "off": 0.05, "off_isotropic": 0.3}
            row = {name: value * changes.get(name, 1.0) for name, value in row.items()}
            if seed < n_failed:
                row |= {"trained": 2.5 * step, "cosine": 0.3, "off": 0.6, "off_isotropic": 0.1}
            rows.append({"d": d, "n": n, "noise_variance": noise, "decay": decay, "seed": seed, **row})
    return Table(rows)


def outcomes(table: Table, settings=SETTINGS) -> list[str]:
    return [verdict.outcome for verdict in ENTRY.check(table, settings)]


def test_layers_that_reach_the_step_pass():
    assert outcomes(planted()) == ["holds"] * 4


def test_a_run_that_did_not_train_is_counted_and_named():
    risk, trained, matrix, far = ENTRY.check(planted(n_failed=1), SETTINGS)
    assert [risk.outcome, far.outcome] == ["holds"] * 2
    assert [trained.outcome, matrix.outcome] == ["holds under"] * 2
    assert "4 of 5 do" in trained.condition
    assert "the others have 2.50" in trained.numbers


TURNS = [
    ({"n_failed": 3}, [ENTRY.claims[1], ENTRY.claims[2]]),
    ({"step": 1.1, "trained": 1.1, "smaller": 1.1, "larger": 1.1}, [ENTRY.claims[0]]),
    ({"larger": 0.9}, [ENTRY.claims[0]]),
    ({"trained": 1.1}, [ENTRY.claims[1], ENTRY.claims[2]]),
    ({"trained": 0.9}, [ENTRY.claims[1]]),
    ({"off": 5.0}, [ENTRY.claims[2]]),
    ({"off_isotropic": 0.2}, [ENTRY.claims[2]]),
    ({"cosine": 0.9}, [ENTRY.claims[2]]),
    ({"ridge": 10.0}, [ENTRY.claims[3]]),
]


def test_what_no_case_shows_is_not_tested():
    settings = dataclasses.replace(SETTINGS, cases=((5, 20, 0.0, 0.0),))
    assert outcomes(planted(), settings)[2:] == ["cannot be tested here"] * 2


def test_a_layer_answers_what_its_tensor_says():
    model = build_model("linear-attention", d=3, d_y=1, seeds=[2]).double()
    prompt = fresh_prompts(build_task("linear", d=3), 0, 20, 5)
    tokens = torch.cat([prompt.xs, prompt.ys], -1)
    by_tensor = torch.einsum("abc,na,nib,nic->n", symmetric_tensor(model), prompt.query, tokens, tokens)
    torch.testing.assert_close(answers_of(model, prompt)[:, -1, 0], by_tensor)


def test_a_step_is_its_own_nearest_step():
    matrix, cosine = step_matrix(gradient_step(4, 1, 8, 0.5).double())
    torch.testing.assert_close(matrix, 0.5 / 8 * torch.eye(4))
    assert cosine == pytest.approx(1.0)
    model = build_model("linear-attention", d=4, d_y=1, seeds=[0]).double()
    matrix, cosine = step_matrix(model)
    rest = symmetric_tensor(model) - step_tensor(matrix)
    assert abs(float((rest * step_tensor(torch.randn(4, 4))).sum())) < 1e-12
    assert 0 < cosine < 1


def test_a_tiny_run_is_checked_and_drawn():
    settings = dataclasses.replace(SETTINGS, steps=2, batch=4, n_prompts=200, n_seeds=2)
    table = ENTRY.run(settings)
    assert len(table) == 2 * len(settings.cases)
    assert (table.column("step") < table.column("trained")).all()
    verdicts = ENTRY.check(table, settings)
    assert {verdict.claim for verdict in verdicts} == {claim.statement for claim in ENTRY.claims}
    assert not verdicts[1].holds
    assert len(ENTRY.plot(table, settings).get_axes()) == 2


PLANTED = {
    "mahankali-ahn-risk": [
        Planted(claims[0], planted, partial(planted, **changes), also=claims[1:]) for changes, claims in TURNS
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
