"""The recipes of Yang et al. 2024: that they run, and that each verdict can go either way."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from tests.recipes.planting import Planted, turning

from iclens.papers.yang_2024.fig_2 import ABOVE, LIMIT, TOGETHER
from iclens.papers.yang_2024.fig_3 import FIVE, HUMPS, NEAR, ZERO
from iclens.papers.yang_2024.fig_4 import ABOVE_FLOOR, ONE_HEAD, SLOW, STOPS, UNSTABLE
from iclens.papers.yang_2024.fig_5 import BEST, BY_STEPS, NO_NEED, SLOWER
from iclens.papers.yang_2024.runs import judged_by_tokens
from iclens.papers.yang_2024.theorem_1 import FACTOR, LINEAR, SLOWER_WITH_H, SLOWER_WITH_K, TO_L_STAR
from iclens.recipes.contract import RECIPES
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim

TINY = dict(n_prompt=3, n_tokens=6, d=4, n_features=2, batch=8, n_draws=16, n_test=5, steps=4, every=2, n_seeds=2)
DEEP = dict(n_layers=2, width=8, inner_width=8)
TINY_SETTINGS = {
    "yang-fig-2a": TINY | {"n_heads": 4},
    "yang-fig-2b": TINY | DEEP | {"n_heads": 2},
    "yang-fig-3": {"n_features": 6, "n_tokens": 12, "n_prompts": (3, 4, 5, 6, 7, 8, 9), "n_test": 5, "n_seeds": 2},
    "yang-fig-4": TINY | {"n_heads": (1, 2, 3, 5, 6), "reference_heads": 5, "largest_steps": 4},
    "yang-fig-5": TINY | DEEP | {"n_heads": (1, 4, 32), "width": 32, "seconds": 0.02, "batch": 16},
    "yang-theorem-1": {"n_tokens": (5, 6), "n_heads": (16, 32), "middle_heads": 16, "steps": 200, "n_seeds": 2},
}


@pytest.mark.parametrize("name", TINY_SETTINGS)
def test_a_recipe_measures_judges_and_draws(name):
    recipe = RECIPES[name]
    settings = dataclasses.replace(recipe.quick.settings, **TINY_SETTINGS[name])
    heard = []
    table = recipe.run(settings, lambda *told: heard.append(told))
    assert heard
    back = Table.from_json_columns(table.to_columns())
    verdicts = recipe.check(back, settings)
    assert [verdict.claim for verdict in verdicts] == [claim.statement for claim in recipe.claims]
    assert verdicts == recipe.check(table, settings)
    assert recipe.plot(back, settings).axes
    if name not in ("yang-fig-5", "yang-fig-2b"):
        assert recipe.run(settings) == table


def settings_of(name, changes):
    return dataclasses.replace(RECIPES[name].quick.settings, **changes)


def by_tokens(rows):
    return Table({"normalised": normalised, **row} for normalised in (True, False) for row in rows)


def curves(loss, in_domain, shifted, smallest=1.0):
    rows = []
    for seed in range(2):
        for step, values in enumerate(zip(loss, in_domain, shifted, strict=True)):
            row = {"seed": seed, "step": step, **dict(zip(("loss", "in_domain", "shifted"), values, strict=True))}
            rows.append(row | ({"smallest_loss": smallest} if step == 0 else {}))
    return by_tokens(rows)


FIG_2 = [
    (TOGETHER, ([9, 4, 1], [9, 4, 1], [20, 9, 3]), ([9, 4, 1], [9, 4, 1], [20, 15, 6])),
    (TOGETHER, ([9, 4, 1], [9, 4, 1], [20, 9, 3]), ([9, 4, 1], [9, 1, 2], [20, 9, 3])),
    (
        TOGETHER,
        ([9, 8, 7, 4, 1], [9, 8, 7, 4, 1], [20, 16, 12, 9, 3]),
        ([9, 8, 7, 4, 1], [9, 7, 8, 1, 2], [20, 16, 12, 9, 3]),
    ),
    (ABOVE, ([9, 4, 1], [9, 4, 1], [20, 9, 3]), ([9, 4, 1], [9, 4, 1], [20, 3, 3])),
    (LIMIT, ([9, 4, 1.2], [9, 4, 1], [20, 9, 3]), ([9, 4, 0.1], [9, 4, 1], [20, 9, 3])),
    (LIMIT, ([9, 4, 1.2], [9, 4, 1], [20, 9, 3]), ([9, 4, 2.0], [9, 4, 1], [20, 9, 3])),
]


def gaps(values, m=6, ratio=5.0, at_m=0.0, spread=0.05):
    rows = []
    for seed in range(3):
        for n, value in values.items():
            for shifted in (False, True):
                size = (at_m if n == m else value) * (ratio + spread * (seed - 1) if shifted else 1.0)
                rows.append({"seed": seed, "n_prompt": n, "shifted": shifted, "gap": size, "expected": size})
    return Table(rows)


M_SHAPE = {1: 2.0, 2: 3.0, 4: 2.5, 6: 0.0, 8: 1.0, 10: 3.0, 12: 2.0}


FIG_3 = [
    (NEAR, gaps(M_SHAPE | {12: -1.0} | {6: 0.0}, m=6)),
    (ZERO, gaps(M_SHAPE, at_m=1e-3)),
    (HUMPS, gaps(M_SHAPE | {1: 4.0})),
    (HUMPS, gaps(M_SHAPE | {12: 2.9})),
    (FIVE, gaps(M_SHAPE, ratio=4.0)),
    (FIVE, gaps(M_SHAPE, ratio=5.2)),
    (FIVE, gaps(M_SHAPE, ratio=5.0, spread=0.5)),
]


def heads_table(ends, before, floors, rise=0.0):
    """Excess at 0, 3/4 and the end of 8 steps for H = 1, 2 (N = 3), 3, 5 and 40."""
    rows = []
    for heads in ends:
        for seed in range(2):
            excesses = {0: 10.0, 6: before[heads], 8: ends[heads]}
            for step, value in excesses.items():
                loss = 1 + value + (rise if heads == 40 and step == 8 else 0)
                row = {"n_heads": heads, "seed": seed, "step": step, "excess": value, "loss": loss}
                extra = {"smallest_loss": 1.0, "floor": floors[heads], "zeta": 0.0} if step == 0 else {}
                rows.append(row | extra)
    return by_tokens(rows)


GOOD_ENDS = {1: 8.0, 2: 4.0, 3: 1.0, 5: 0.1, 40: 0.05}
GOOD_BEFORE = {1: 8.1, 2: 4.1, 3: 2.0, 5: 0.2, 40: 0.1}
GOOD_FLOORS = {1: 7.0, 2: 3.0, 3: 0.0, 5: 0.0, 40: 0.0}


FIG_4 = [
    (STOPS, ({2: 0.3}, {2: 0.31}, {}), 0.0),
    (STOPS, ({}, {2: 6.0}, {}), 0.0),
    (SLOW, ({3: 0.1}, {3: 0.2}, {}), 0.0),
    (SLOW, ({}, {3: 1.01}, {}), 0.0),
    (UNSTABLE, ({}, {}, {}), 0.0),
    (ABOVE_FLOOR, ({}, {}, {2: 5.0}), 0.0),
    (ONE_HEAD, ({1: 4.0}, {1: 4.1}, {}), 0.0),
]


def test_fig_4_sees_a_diverged_run_as_unstable():
    table = heads_table(GOOD_ENDS | {40: float("nan")}, GOOD_BEFORE, GOOD_FLOORS)
    (found,) = [each for each in RECIPES["yang-fig-4"].check(table, _HEADS) if each.claim == UNSTABLE.statement]
    assert found.outcome == "holds"


def clock_table(ends, at_common=None):
    """Losses of three seeds for each H: two measurements, the first at the step that all reach."""
    rows = []
    for heads, end in ends.items():
        for seed in range(3):
            # Two heads reach 20 steps and more; one reaches 10, which is then what all have reached.
            for step, value in {10: (at_common or ends)[heads], 10 * heads: end}.items():
                noise = 0.001 * seed * (1 + heads / 100)
                rows.append({"n_heads": heads, "seed": seed, "step": step, "seconds": 1.0, "loss": value + noise})
    return by_tokens(rows)


GOOD_CLOCK = {1: 2.0, 4: 1.0, 32: 3.0}
FIG_5 = [
    (BEST, clock_table({1: 0.9, 4: 1.0, 32: 3.0})),
    (SLOWER, clock_table({1: 2.0, 4: 1.0, 32: 0.9})),
    (NO_NEED, clock_table({1: 2.0, 4: 1.0, 32: 0.5})),
    (BY_STEPS, clock_table(GOOD_CLOCK, {1: 2.0, 4: 1.0, 32: 0.5})),
]


def descent_table(slope=-0.1, end_loss=1.0, bend=0.0, factor=0.95, slower=0.98):
    """Every larger size takes the slope times `slower`."""
    rows = []
    for same in (False, True):
        for k, h in ((5, 16), (6, 16), (5, 32)):
            for seed in range(2):
                for step in range(0, 210, 10):
                    excess = float(np.exp(slope * (slower if (k, h) != (5, 16) else 1) * step + bend * step**2))
                    cells = {"n_tokens": k, "n_heads": h, "same_rates": same, "seed": seed, "step": step}
                    row = cells | {"excess": excess, "loss": excess + end_loss, "smallest_loss": 1.0}
                    extra = {"factor": factor, "lazy": 0.9, "share": 0.5, "gamma": 1.0, "zeta": 1.0}
                    rows.append(row | (extra if step == 0 else {}))
    return Table(rows)


THEOREM_1 = [
    (LINEAR, descent_table(bend=4e-4)),
    (TO_L_STAR, descent_table(end_loss=0.5)),
    (FACTOR, descent_table(factor=0.8)),
    (SLOWER_WITH_K, descent_table(slower=1.0)),
    (SLOWER_WITH_K, descent_table(slower=1.05)),
    (SLOWER_WITH_H, descent_table(slower=1.0)),
    (SLOWER_WITH_H, descent_table(slower=1.05)),
]


def test_a_claim_on_one_kind_of_tokens_names_it():
    claim = Claim("x", "y", "stated")
    table = by_tokens([{"value": 1}])

    def judge(rows):
        return bool(rows.cells("normalised")[0]), "seen"

    found = judged_by_tokens(claim, table, judge, "a test")
    assert found.outcome == "holds under"
    assert found.condition == "unit-norm tokens"
    assert "raw tokens: seen" in found.numbers


_M_TABLE, _GOOD_CLOCK_TABLE = partial(gaps, M_SHAPE), partial(clock_table, GOOD_CLOCK)
_HEADS = settings_of("yang-fig-4", {"n_prompt": 3, "n_heads": (1, 2, 3, 5, 40), "reference_heads": 5, "steps": 8})
_CLOCK = {"n_heads": (1, 4, 32)}
_SIZES = {"n_tokens": (5, 6), "n_heads": (16, 32), "middle_heads": 16, "steps": 200, "every": 10, "n_seeds": 2}
_FIG_4 = [
    Planted(
        claim,
        partial(heads_table, GOOD_ENDS, GOOD_BEFORE, GOOD_FLOORS, rise=1.0),
        partial(
            heads_table,
            *(whole | part for whole, part in zip((GOOD_ENDS, GOOD_BEFORE, GOOD_FLOORS), changes, strict=True)),
            rise=rise,
        ),
        _HEADS,
    )
    for claim, changes, rise in FIG_4
]
PLANTED = {
    "yang-fig-2a": [Planted(claim, partial(curves, *good), partial(curves, *bad)) for claim, good, bad in FIG_2],
    "yang-fig-2b": [
        Planted(claim, partial(curves, *good), partial(curves, *bad))
        for claim, good, bad in FIG_2
        if claim is not LIMIT
    ],
    "yang-fig-3": [
        Planted(claim, _M_TABLE, lambda bad=bad: bad, settings_of("yang-fig-3", {"n_features": 6}))
        for claim, bad in FIG_3
    ],
    "yang-fig-4": _FIG_4,
    "yang-fig-5": [
        Planted(claim, _GOOD_CLOCK_TABLE, lambda bad=bad: bad, settings_of("yang-fig-5", _CLOCK))
        for claim, bad in FIG_5
    ],
    "yang-theorem-1": [
        Planted(claim, descent_table, lambda bad=bad: bad, settings_of("yang-theorem-1", _SIZES))
        for claim, bad in THEOREM_1
    ],
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
