"""The contract of recipes: settings, verdicts, means over seeds, and what is registered."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats
from tests.recipes.coin import MEAN, Coin, CoinSettings

from iclens.errors import UserError
from iclens.recipes.contract import RECIPES, Preset, recipe
from iclens.recipes.parts import work_key
from iclens.recipes.reproduction import verdict_documents
from iclens.recipes.seed_curves import seed_curve
from iclens.recipes.settings import chosen, option, overridden, recorded, setting_rows
from iclens.recipes.table import Table
from iclens.recipes.verdict import Verdict

# Settings


def test_a_preset_that_leaves_the_paper_says_so():
    rows = {row.name: row for row in setting_rows(CoinSettings(n_seeds=3))}
    assert (rows["n_seeds"].origin, rows["n_seeds"].note) == ("chosen", "the paper: 4 (section 1)")
    assert rows["centre"].origin == rows["widths"].origin == "chosen"
    (first, *_) = setting_rows(CoinSettings())
    assert (first.origin, first.note) == ("stated", "section 1")


def test_an_unmarked_setting_is_refused():
    @dataclass(frozen=True)
    class Unmarked:
        n: int = 3

    with pytest.raises(TypeError, match=r"Unmarked\.n must be made by stated"):
        setting_rows(Unmarked())
    with pytest.raises(TypeError, match="not an instance"):
        setting_rows(Unmarked)


# Verdicts


def test_verdict_has_four_outcomes():
    assert MEAN.judged(np.bool_(True), "2", "= 2").outcome == "holds"
    assert MEAN.judged(True, "2", "= 2", "the coin is fair").outcome == "holds under"
    assert MEAN.judged(False, "3", "= 2", "the coin is fair").outcome == "does not hold"
    assert MEAN.untested("no coin here").outcome == "cannot be tested here"
    assert Verdict("c", True, "n").outcome == "holds"
    assert Verdict("c", False, "n").outcome == "does not hold"


def test_a_verdict_does_not_contradict_itself():
    with pytest.raises(ValueError, match="untested at once"):
        Verdict("c", True, "n", untested="no")
    with pytest.raises(ValueError, match="under no condition"):
        Verdict("c", False, "n", condition="x")


def test_verdicts_are_json():
    (document,) = verdict_documents([MEAN.judged(np.bool_(False), "3", "= 2")])
    assert json.loads(json.dumps(document))["outcome"] == "does not hold"


# Means over seeds


def test_seed_curve_is_students_t_at_every_position():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 3))
    table = Table({"seed": s, "x": x, "y": values[s, x]} for s in range(5) for x in range(3)) + Table([{"other": 1}])
    curve = seed_curve(table, "x", "y")
    low, high = stats.t.interval(0.95, 4, values.mean(0), stats.sem(values))
    np.testing.assert_allclose(curve.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(curve.low, low, rtol=1e-12)
    np.testing.assert_allclose(curve.high, high, rtol=1e-12)
    one = seed_curve(table.where(seed=0), "x", "y")
    assert np.isnan(one.low).all()
    assert np.isfinite(one.mean).all()


# Registration


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_is_whole(name):
    entry = RECIPES[name]
    assert entry.id == name
    assert name == name.lower()
    assert " " not in name
    assert entry.claims
    assert len({claim.statement for claim in entry.claims}) == len(entry.claims)
    for preset in entry.presets.values():
        assert preset.seconds > 0
        assert len(entry.parts(preset.settings)) >= 1
        json.dumps([dict(part) for part in entry.parts(preset.settings)])
        assert work_key(entry, preset.settings, "1")
    keys = [json.dumps(dict(part), sort_keys=True) for part in entry.parts(entry.quick.settings)]
    assert len(set(keys)) == len(keys)


def test_an_incomplete_recipe_is_refused():
    class Half(Coin):
        """Something."""

        quick = Preset({"n": 1}, 1)

    with pytest.raises(TypeError, match="not an instance of a dataclass"):
        recipe("half")(Half)

    class Bare(Coin):
        pass

    Bare.__doc__ = None
    with pytest.raises(TypeError, match="'bare' has no docstring"):
        recipe("bare")(Bare)
    assert "half" not in RECIPES
    with pytest.raises(UserError, match="Did you mean 'von-oswald-step'"):
        RECIPES["von-oswald-stop"]


@dataclass(frozen=True)
class WithOption:
    n: int = chosen(3)
    rows: tuple[str, ...] = chosen(("a", "b"))
    device: str = option("", "cpu or cuda")


def test_an_option_is_recorded_and_shown_only_where_it_is_set():
    assert recorded(WithOption()) == {"n": 3, "rows": ("a", "b")}
    assert [row.name for row in setting_rows(WithOption())] == ["n", "rows"]
    given = overridden(WithOption(), ["device=cuda", "rows=c"])
    assert recorded(given) == {"n": 3, "rows": ("c",), "device": "cuda"}
    assert [row.name for row in setting_rows(given)] == ["n", "rows", "device"]
    assert overridden(WithOption(), ['rows=["c", "d"]', "n=4"]) == WithOption(4, ("c", "d"))
