"""Verdicts on modified attention follow planted gains, over what was chosen elsewhere, and over the controls."""

from __future__ import annotations

from functools import cache, partial

import pytest
from tests.recipes.planting import Planted, turning

from iclens.papers.ren_liu_2024.on_real_models.claims import CLAIM, CONTROL, KINDS, LEARNT, MODIFICATIONS
from iclens.papers.ren_liu_2024.on_real_models.gains import ACCURACY, LOSS, PUT_IN, TUNED, Measured
from iclens.papers.ren_liu_2024.on_real_models.modifications import CONTROLS, NEGATIVE, REGULARIZED
from iclens.recipes.contract import RECIPES
from iclens.recipes.table import Table

ENTRY = RECIPES["modified-real"]
SETTINGS = ENTRY.more["short"].settings
BEST = {
    (PUT_IN, "regularized"): "regularized 0.1, last",
    (PUT_IN, "negative"): "negative 0.1 k=1, middle",
    (TUNED, "regularized"): "regularized 0.1, all",
    (TUNED, "augmented"): "augmented g1&g2, all",
    (TUNED, "negative"): "negative 0.1 k=1, all",
}
PLAIN_LOSS = {PUT_IN: 2.0, TUNED: 1.5}
GAIN, OF_CONTROLS = 0.2, 0.05


@cache
def planted(*changes):
    """Every kind's best attention gains, its control little; `changes` are (study, row, measure, gain)."""
    gains = {}
    for study, grid in MODIFICATIONS.items():
        for name, one in grid(SETTINGS).items():
            best = BEST.get((study, one.kind)) == name
            control = one.kind in CONTROLS.values()
            gains[study, name, LOSS] = GAIN if best else OF_CONTROLS if control else 0.0
            gains[study, name, ACCURACY] = GAIN if best else 0.0
    gains |= {tuple(where): gain for *where, gain in changes}
    rows = []
    for study, name in dict.fromkeys((study, name) for study, name, _ in gains):
        for place, task in enumerate(SETTINGS.tasks):
            for number in range(SETTINGS.n_sets):
                for seed in range(SETTINGS.n_seeds if study == TUNED else 1):
                    # Sets differ, and gains a little with them.
                    shift = 0.01 * ((7 * place + 3 * number + 5 * seed) % 5 - 2)
                    loss = PLAIN_LOSS[study] + 0.3 * place - gains[study, name, LOSS] * (1 + shift)
                    right = 0.5 + gains[study, name, ACCURACY] * (1 + shift)
                    row = {"study": study, "row": name, "task": task, "number": number, LOSS: loss, "right": right}
                    rows += [{**row, **({"seed": seed} if study == TUNED else {}), "query": query} for query in (0, 1)]
    return Table(rows)


def changed(*some):
    return partial(planted, *some)


def absent(study, kind, what):
    """The effect taken away from the best attention of a kind; of the comparison, given to the control as well."""
    best = BEST[study, kind]
    if what != CONTROL:
        return changed((study, best, what, -GAIN if what == ACCURACY else 0.0))
    own = MODIFICATIONS[study](SETTINGS)[best].matched
    return changed((study, own, LOSS, GAIN))


def also(study, kind, what):
    """Without a gain in log-loss nothing is above its control, and another row may be chosen, of no accuracy."""
    if what == LOSS:
        return [CLAIM[study, kind, CONTROL], *([CLAIM[study, kind, ACCURACY]] if study == PUT_IN else [])]
    if what == CONTROL:
        shared = [other for other in KINDS[study] if other != kind and CONTROLS[other] == CONTROLS[kind]]
        return [CLAIM[study, other, CONTROL] for other in shared]
    return []


PLANTED = {
    "modified-real": [
        *(Planted(claim, planted, absent(*asked), SETTINGS, also=also(*asked)) for asked, claim in CLAIM.items()),
        Planted(LEARNT, planted, changed((TUNED, "plain", LOSS, -0.6)), SETTINGS),
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)


def verdict(table, claim):
    (found,) = [one for one in ENTRY.check(table, SETTINGS) if one.claim == claim.statement]
    return found


def test_a_choice_that_does_not_carry_over_gains_nothing():
    """A strength that is best on the sets of one number and worst on the others': the best in hindsight is no gain."""
    names = [name for name, one in MODIFICATIONS[PUT_IN](SETTINGS).items() if one.kind == REGULARIZED][:2]
    rows = []
    for row in planted():
        if row["study"] == PUT_IN and row["row"] in names:
            good = names.index(str(row["row"])) == row["number"]
            row[LOSS] = float(row[LOSS]) - (0.5 if good else -1.0)
        if row["study"] == PUT_IN and str(row["row"]).startswith("regularized") and row["row"] not in names:
            row[LOSS] = float(row[LOSS]) + 2.0
        rows.append(row)
    found = verdict(Table(rows), CLAIM[PUT_IN, REGULARIZED, LOSS])
    assert found.outcome == "does not hold"
    assert "gain -1.0" in found.numbers


def test_what_is_chosen_for_a_number_has_the_highest_gain_on_the_other_numbers():
    found = Measured.of(planted(), PUT_IN)
    names = [name for name in found.numbers if name.startswith("negative")]
    for number, pick in found.picks(names).items():
        others = [unit for unit in found.units if unit[1] != number]
        sums = {name: sum(found.gain(name, unit, LOSS) for unit in others) for name in names}
        assert pick == max(sums, key=sums.__getitem__) == BEST[PUT_IN, NEGATIVE]


def test_a_gain_at_one_seed_alone_is_none():
    rows = []
    for row in planted():
        if row["row"] == "augmented g1&g2, all":
            row[LOSS] = float(row[LOSS]) + (0.3 if row["seed"] == 1 else -0.3)
        rows.append(row)
    found = verdict(Table(rows), CLAIM[TUNED, "augmented", LOSS])
    assert found.outcome == "does not hold"
    assert "+0.200 [" in found.numbers


def test_the_best_control_counts_whatever_its_strength():
    """A control of another strength that gains as much takes the verdict away."""
    other = changed((PUT_IN, "scale-matched -0.1, first", LOSS, GAIN + 0.1))
    found = verdict(other(), CLAIM[PUT_IN, NEGATIVE, CONTROL])
    assert found.outcome == "does not hold"
    assert "the best control (scale-matched -0.1, first) by -0.1" in found.numbers
    assert verdict(planted(), CLAIM[PUT_IN, NEGATIVE, CONTROL]).holds


@pytest.mark.parametrize("lost", [(PUT_IN, "sst2", 1), (TUNED, "sst2", 1)])
def test_an_attention_that_lacks_a_set_is_not_compared(lost):
    study, task, number = lost
    where = {"study": study, "task": task, "number": number}
    best = BEST[study, NEGATIVE]
    table = Table(
        row for row in planted() if row["row"] != best or any(row.get(key) != value for key, value in where.items())
    )
    assert best not in Measured.of(table, study).numbers
    assert best in Measured.of(planted(), study).numbers
