"""One linear head is one step of gradient descent: measured in small, and planted tables turn each verdict."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
from tests.recipes.planting import Planted, turning

from iclens.papers.related.linear_attention_step import LinearAttentionStep, StepSettings, best_step
from iclens.recipes.table import Table

SMALL = StepSettings(n_prompts=300, n_seeds=4, n_compared=5, max_steps=3, n_rates=3)


def test_best_step_has_the_known_values():
    assert best_step(10, 10, 1.0) == pytest.approx((1.515, 1.6498), abs=5e-4)
    assert best_step(10, 10, 0.5) == pytest.approx((6.061, 0.4125), abs=5e-4)


def test_one_linear_head_is_one_step():
    entry = LinearAttentionStep()
    table = entry.run(SMALL)
    step, stack, _ = entry.check(table, SMALL)
    assert step.holds
    assert stack.holds
    assert table == entry.run(SMALL)
    entry.plot(table, SMALL)


HEAD = dataclasses.replace(SMALL, half_widths=(1.0,))


def head_table(broken=None):
    """A perfect head, but for one of: slightly wrong, a stack that drifts, a loss that is 8 % off."""
    best, expected = best_step(10, 10, 1.0)
    rows = []
    for seed in range(4):
        rows += [{"seed": seed, "a": 1.0, "steps": s, "residual": 1e-16} for s in (1, 2, 3)]
        for rate, factor in ((0.0, 2.0), (best, 1.0), (2 * best, 2.0)):
            rows.append({"seed": seed, "a": 1.0, "eta": rate, "error": factor * expected * (1 + 0.01 * (seed - 1.5))})
    if broken == 0:
        rows[0]["residual"] = 1e-9
    elif broken == 1:
        rows[2]["residual"] = 1e-9
    elif broken == 2:
        for row in rows:
            if "error" in row:
                row["error"] *= 1.08
    return Table(rows)


PLANTED = {
    "von-oswald-step": [
        # One step that is not reproduced is the first of many steps that are not.
        Planted(
            claim, head_table, partial(head_table, broken), HEAD, also=LinearAttentionStep.claims[1:2] * (broken == 0)
        )
        for broken, claim in enumerate(LinearAttentionStep.claims)
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
