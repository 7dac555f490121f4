"""The contract of recipes: tables, settings, verdicts, parts that survive an interruption, and the first recipe."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.recipes.planting import Planted

from iclens.cli.output import write_atomically
from iclens.errors import UserError
from iclens.recipes.figures import COLOURS, new_figure, style
from iclens.recipes.linear_attention import LinearAttentionStep, StepSettings, best_step
from iclens.recipes.parts import PartStore, work_key
from iclens.recipes.recipe import RECIPES, Preset, Recipe, recipe
from iclens.recipes.reproduce import Order, reproduce, reproduce_all
from iclens.recipes.reproduction import TABLE, stored, verdict_documents
from iclens.recipes.seed_curves import seed_curve, seed_estimate
from iclens.recipes.settings import chosen, setting_rows, stated
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.sealed import sealed

MEAN = Claim("The mean is 2.", "a paper, section 1", "stated")
SIGN = Claim("No number is negative.", "a paper, section 2", "derived")


@dataclass(frozen=True)
class CoinSettings:
    n_seeds: int = stated(4, "section 1")
    centre: float = chosen(2.0)
    widths: tuple[float, ...] = chosen((0.5, 1.0), "two of them")


class Coin(Recipe[CoinSettings]):
    """Draws numbers around a centre.

    A second paragraph.
    """

    id = "coin"
    title = "Coins"
    reference = "a paper, section 1"
    claims = (MEAN, SIGN)
    quick = Preset(CoinSettings(n_seeds=3), seconds=0.1)
    paper = Preset(CoinSettings(), seconds=0.2)

    def __init__(self, stop_at=None):
        self.measured = []
        self.stop_at = stop_at

    def parts(self, settings):
        return [{"seed": seed, "width": width} for seed in range(settings.n_seeds) for width in settings.widths]

    def measure(self, part, settings, progress):
        if len(self.measured) == self.stop_at:
            raise KeyboardInterrupt
        self.measured.append(dict(part))
        generator = torch.Generator().manual_seed(part["seed"])
        drawn = settings.centre + part["width"] * torch.randn(3, generator=generator, dtype=torch.float64)
        progress(1, 1, "drawn")
        return Table({"at": at, "value": value} for at, value in enumerate(drawn))

    def check(self, table, settings):
        mean = seed_estimate(table, "value")
        lowest = table.column("value").min()
        return [
            SIGN.judged(lowest >= 0, f"lowest {lowest:.2f}", "lowest ≥ 0", "the width is small"),
            MEAN.judged(mean.low <= 2 <= mean.high, f"{mean}", "the interval contains 2"),
        ]

    def plot(self, table, settings):
        figure = new_figure()
        figure.subplots().plot(table.column("at"), table.column("value"), "o")
        return figure


@pytest.fixture
def registered(monkeypatch):
    """The coin among the recipes, for one test."""
    list(RECIPES)
    monkeypatch.setattr(RECIPES, "_entries", {**RECIPES._entries, "coin": Coin()})


def planted(stop_at=None):
    return Coin(stop_at)


# Tables

cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False),
    st.text(st.characters(categories=("L", "N", "P", "Zs")), max_size=5).filter(
        lambda t: t not in ("nan", "inf", "-inf")
    ),
)
tables = st.lists(st.dictionaries(st.sampled_from("abcd"), cells, min_size=1), max_size=5)


@given(tables)
def test_table_survives_json(rows):
    table = Table(rows)
    text = json.dumps(table.to_columns(), allow_nan=False)
    assert Table.from_json_columns(json.loads(text)) == Table.from_json_columns(table.to_columns())
    back = Table.from_json_columns(json.loads(text))
    full = [{name: cell for name, cell in row.items() if cell is not None} for row in rows]
    assert [dict(row) for row in back] == full or not any(full)


def test_table_keeps_what_json_cannot_write():
    table = Table([{"a": math.inf}, {"a": -math.inf}, {"a": math.nan}, {"b": 1}])
    back = Table.from_json_columns(json.loads(json.dumps(table.to_columns(), allow_nan=False)))
    np.testing.assert_array_equal(back.column("a"), [math.inf, -math.inf, math.nan, math.nan])
    assert back.to_csv() == "a,b\ninf,\n-inf,\nnan,\n,1\n"


def test_table_rows_of_different_kinds_stand_side_by_side():
    table = Table([{"kind": "curve", "x": 1, "y": torch.tensor(2.0)}, {"kind": "end", "total": np.float64(3)}])
    assert table.names == ("kind", "x", "y", "total")
    assert table.cells("y") == [2.0, None]
    assert len(table.only("total")) == 1
    assert table.where(kind="curve").column("y").tolist() == [2.0]
    assert table.where(total=None).unique("kind") == ["curve"]
    assert Table([{"a": 2}, {"b": 0}, {"a": 1.5}, {"a": 2}, {"a": math.nan}]).numbers("a") == [1.5, 2.0]
    assert Table.from_columns({"a": [2, 1], "b": ["x", "y"]}).sorted_by("a").cells("b") == ["y", "x"]


def test_table_refuses_what_is_no_cell():
    with pytest.raises(TypeError, match="column 'a': list"):
        Table([{"a": [1]}])
    with pytest.raises(KeyError, match="no column 'b'; there are a"):
        Table([{"a": 1}]).column("b")
    with pytest.raises(ValueError, match="already have a column 'a'"):
        Table([{"a": 1}]).with_cells(a=2)
    with pytest.raises(ValueError, match="argument 2"):
        Table.from_columns({"a": [1], "b": [1, 2]})


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


# Parts and resuming


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, registered):
    whole = reproduce(planted(), "quick", tmp_path / "..", lambda *_: None).table
    stopped = planted(stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        reproduce(stopped, "quick", tmp_path, write_atomically)
    assert not (tmp_path / TABLE).exists()
    assert len(list((tmp_path / "parts").glob("*.json"))) == 4
    resumed = planted()
    made = reproduce(resumed, "quick", tmp_path, write_atomically, resume=True)
    assert len(resumed.measured) == 2
    assert made.table == whole
    assert not (tmp_path / "parts").exists()
    again = planted()
    assert reproduce(again, "quick", tmp_path, write_atomically, resume=True).table == whole
    assert again.measured == []


def test_without_resume_everything_is_measured_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        reproduce(planted(stop_at=4), "quick", tmp_path, write_atomically)
    fresh = planted()
    reproduce(fresh, "quick", tmp_path, write_atomically)
    assert len(fresh.measured) == 6


def test_a_fresh_run_that_was_interrupted_goes_on_and_does_not_give_the_older_table(tmp_path, registered):
    older = reproduce(planted(), "quick", tmp_path, write_atomically)
    with pytest.raises(KeyboardInterrupt):
        reproduce(planted(stop_at=4), "quick", tmp_path, write_atomically)
    assert stored(tmp_path).table == older.table  # nothing is lost before there is something new
    resumed = planted()
    reproduce(resumed, "quick", tmp_path, write_atomically, resume=True)
    assert len(resumed.measured) == 2


def test_a_table_of_an_older_revision_is_neither_taken_nor_drawn(tmp_path, registered, monkeypatch):
    reproduce(planted(), "quick", tmp_path, write_atomically)
    monkeypatch.setattr(Coin, "revision", 2)
    with pytest.raises(UserError, match="another revision"):
        stored(tmp_path)
    fresh = planted()
    reproduce(fresh, "quick", tmp_path, write_atomically, resume=True)
    assert len(fresh.measured) == 6


def test_parts_beside_one_that_fails_are_kept(tmp_path, registered, monkeypatch):
    failing = planted()
    measure = Coin.measure

    def sometimes(self, part, settings, progress):
        if part["seed"] == 0:
            raise UserError("no such coin.")
        return measure(self, part, settings, progress)

    with monkeypatch.context() as patched:
        patched.setattr(Coin, "measure", sometimes)
        with pytest.raises(UserError, match="no such coin"):
            reproduce(failing, "quick", tmp_path, write_atomically)
    resumed = planted()
    reproduce(resumed, "quick", tmp_path, write_atomically, resume=True)
    assert {part["seed"] for part in resumed.measured} == {0}


def test_what_the_machine_lacks_is_said_and_parts_made_elsewhere_are_kept(tmp_path, registered, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        reproduce(planted(stop_at=4), "quick", tmp_path, write_atomically)
    with monkeypatch.context() as patched:
        patched.setattr(Coin, "lacking", lambda self, settings: "There is no coin here.")
        made = reproduce(planted(), "quick", tmp_path, write_atomically, resume=True)
    assert (made.not_run, len(made.table)) == ("There is no coin here.", 0)
    resumed = planted()
    reproduce(resumed, "quick", tmp_path, write_atomically, resume=True)
    assert len(resumed.measured) == 2


def test_only_a_preset_that_needs_a_gpu_runs_on_one(monkeypatch):
    assert [Coin().device(preset.settings) for preset in (Coin.quick, Coin.paper)] == ["cpu", "cpu"]
    monkeypatch.setattr(Coin, "paper", dataclasses.replace(Coin.paper, needs_gpu="many coins"))
    assert [Coin().device(preset.settings) for preset in (Coin.quick, Coin.paper)] == ["cpu", "cuda"]


def test_parts_of_other_settings_or_revisions_are_not_taken(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        reproduce(planted(stop_at=4), "quick", tmp_path, write_atomically)
    monkeypatch.setattr(Coin, "revision", 2)
    changed = planted()
    reproduce(changed, "quick", tmp_path, write_atomically, resume=True)
    assert len(changed.measured) == 6
    other = Coin()
    assert work_key(other, other.quick.settings, "1") != work_key(other, other.paper.settings, "1")
    assert work_key(other, other.quick.settings, "1") != work_key(other, other.quick.settings, "2")


def test_a_damaged_part_is_measured_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        reproduce(planted(stop_at=4), "quick", tmp_path, write_atomically)
    files = sorted((tmp_path / "parts").glob("*.json"))
    files[0].write_text(files[0].read_text()[:-20])
    files[1].write_text("[]")
    resumed = planted()
    made = reproduce(resumed, "quick", tmp_path, write_atomically, resume=True)
    assert len(resumed.measured) == 4
    assert made.table == planted().run(Coin.quick.settings)


def test_a_part_is_written_whole_or_not_at_all(tmp_path):
    def full(path: Path, content: str | bytes) -> None:
        raise UserError("cannot write: no space left on device.")

    store = PartStore(tmp_path / "parts", "key", full)
    with pytest.raises(UserError, match="no space left"):
        store.save({"seed": 0}, Table([{"a": 1}]), 1.0)
    assert store.load({"seed": 0}) is None


def test_numbers_do_not_depend_on_the_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("iclens.recipes.reproduce.worth_starting", lambda workers, seconds: workers)
    tables = []
    for jobs in (1, 2):
        orders = []
        for name in ("ren-liu-figs-6-8", "ren-liu-fig-3-left"):
            small = dataclasses.replace(RECIPES[name].quick.settings, n_seeds=2)
            monkeypatch.setattr(type(RECIPES[name]), "quick", Preset(small, seconds=1))
            orders.append(Order(RECIPES[name], "quick", tmp_path / f"{name}-{jobs}"))
            orders[-1].folder.mkdir()
        shares = []
        outcomes = list(
            reproduce_all(orders, write_atomically, jobs=jobs, watch=lambda share, _, to=shares: to.append(share))
        )
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1)
        tables.append({outcome.order.recipe.id: outcome.made.table for outcome in outcomes})
    assert tables[0] == tables[1]
    assert len(tables[0]) == 2


def test_what_watches_the_clock_runs_last_and_in_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr("iclens.recipes.reproduce.worth_starting", lambda workers, seconds: workers)
    monkeypatch.setattr(Coin, "alone", lambda self, part, settings: True)
    clocked = planted()
    orders = [Order(clocked, "quick", tmp_path / "clocked"), Order(RECIPES["ren-liu-fig-3-left"], "quick", tmp_path)]
    orders[0].folder.mkdir()
    outcomes = list(reproduce_all(orders, write_atomically, jobs=2))
    assert [outcome.order for outcome in outcomes] == orders[::-1]
    # Counted in this process.
    assert len(clocked.measured) == 6


def test_progress_rises_to_the_end():
    seen = []
    Coin().run(Coin.quick.settings, lambda done, total, message: seen.append(done / total))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) == 6


# Reproductions


def test_a_reproduction_reads_back(tmp_path, registered):
    made = reproduce(RECIPES["coin"], "quick", tmp_path, write_atomically, command="iclens reproduce coin")
    back = stored(tmp_path)
    assert back.table == made.table
    assert back.settings == made.settings
    assert back.key == made.key
    assert back.machine == made.machine
    assert [verdict.claim for verdict in back.verdicts()] == [MEAN.statement, SIGN.statement]
    assert back.picture("svg") == made.picture("svg")
    assert back.picture("svg", "dark") != back.picture("svg")
    assert back.picture("png").startswith(b"\x89PNG")


def test_a_stored_table_of_other_settings_is_refused(tmp_path, registered):
    reproduce(RECIPES["coin"], "quick", tmp_path, write_atomically)
    document = json.loads((tmp_path / TABLE).read_text())
    document["settings"]["n_flips"] = document["settings"].pop("n_seeds")
    (tmp_path / TABLE).write_text(json.dumps(sealed(document)))
    with pytest.raises(UserError, match="was not made by this version of the recipe"):
        stored(tmp_path)
    assert len(reproduce(RECIPES["coin"], "quick", tmp_path, write_atomically, resume=True).table) == 18
    (tmp_path / TABLE).write_text("{")
    with pytest.raises(UserError, match="Delete it and run the recipe again"):
        stored(tmp_path)
    assert stored(tmp_path / "nothing") is None


def test_every_claim_needs_a_verdict(tmp_path, monkeypatch):
    made = reproduce(Coin(), "quick", tmp_path, write_atomically)
    monkeypatch.setattr(Coin, "check", lambda self, table, settings: [MEAN.judged(True, "2", "= 2")])
    with pytest.raises(ValueError, match="has no verdict on 'No number is negative"):
        made.verdicts()
    monkeypatch.setattr(Coin, "claims", ())
    with pytest.raises(ValueError, match="does not make the claim 'The mean is 2"):
        made.verdicts()


def test_what_needs_a_gpu_says_so_and_keeps_what_a_gpu_made(tmp_path, monkeypatch, registered):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    entry = RECIPES["coin"]
    plain = reproduce(entry, "quick", tmp_path, write_atomically)
    monkeypatch.setattr(Coin, "quick", dataclasses.replace(Coin.quick, needs_gpu="it is large"))
    assert reproduce(entry, "quick", tmp_path, write_atomically).table == plain.table
    (tmp_path / TABLE).unlink()
    made = reproduce(entry, "quick", tmp_path, write_atomically)
    assert [verdict.outcome for verdict in made.verdicts()] == ["cannot be tested here"] * 2
    assert "it is large" in made.verdicts()[0].untested
    assert stored(tmp_path).not_run == made.not_run


def test_colours_differ_in_lightness_from_their_ground():
    def lightness(colour):
        r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (r, g, b)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for mode, colours in COLOURS.items():
        ground = lightness(style(mode)["figure.facecolor"])
        for colour in colours:
            high, low = sorted((lightness(colour), ground), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= (1.9 if mode == "light" else 4.0), (mode, colour)


# The first recipe

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


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_each_verdict_on_the_head_turns(broken):
    entry = LinearAttentionStep()
    assert [verdict.holds for verdict in entry.check(head_table(), HEAD)] == [True, True, True]
    verdicts = entry.check(head_table(broken), HEAD)
    assert not verdicts[broken].holds
    assert verdicts[2].holds == (broken != 2)


PLANTED = {
    "von-oswald-step": [
        Planted(claim, head_table, partial(head_table, broken), HEAD)
        for broken, claim in enumerate(LinearAttentionStep.claims)
    ]
}
