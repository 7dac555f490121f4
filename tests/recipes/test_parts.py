"""Parts of a recipe's work: they survive an interruption, and no other work takes them."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
from tests.recipes.coin import Coin, CoinSettings, planted
from tests.recipes.one_recipe import reproduce

from iclens.errors import UserError
from iclens.papers.ren_liu_2024.dual_descent import DualDescent
from iclens.papers.ren_liu_2024.random_features import FeatureSettings, RandomFeatures
from iclens.recipes.contract import Preset
from iclens.recipes.parts import PartStore, work_key
from iclens.recipes.reproduce import Order, cost, reproduce_all
from iclens.recipes.reproduction import TABLE, stored
from iclens.recipes.settings import place
from iclens.recipes.table import Table


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, registered):
    whole = planted().run(Coin.quick.settings)
    stopped = planted(stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        reproduce(stopped, "quick", tmp_path)
    assert not (tmp_path / TABLE).exists()
    assert len(list((tmp_path / "parts").glob("*.part"))) == 4
    resumed = planted()
    made = reproduce(resumed, "quick", tmp_path, resume=True)
    assert len(resumed.measured) == 2
    assert made.table == whole
    assert not (tmp_path / "parts").exists()
    # A run that was killed in its last step has left an empty folder.
    (tmp_path / "parts").mkdir()
    again = planted()
    assert reproduce(again, "quick", tmp_path, resume=True).table == whole
    assert again.measured == []
    assert not (tmp_path / "parts").exists()


def test_without_resume_everything_is_measured_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        reproduce(planted(stop_at=4), "quick", tmp_path)
    fresh = planted()
    reproduce(fresh, "quick", tmp_path)
    assert len(fresh.measured) == 6


def test_a_fresh_run_that_was_interrupted_goes_on_and_does_not_give_the_older_table(tmp_path, registered):
    older = reproduce(planted(), "quick", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        reproduce(planted(stop_at=4), "quick", tmp_path)
    assert stored(tmp_path).table == older.table  # nothing is lost before there is something new
    resumed = planted()
    reproduce(resumed, "quick", tmp_path, resume=True)
    assert len(resumed.measured) == 2


def test_a_table_of_an_older_revision_is_neither_taken_nor_drawn(tmp_path, registered, monkeypatch):
    reproduce(planted(), "quick", tmp_path)
    monkeypatch.setattr(Coin, "revision", 2)
    with pytest.raises(UserError, match="another revision"):
        stored(tmp_path)
    fresh = planted()
    reproduce(fresh, "quick", tmp_path, resume=True)
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
            reproduce(failing, "quick", tmp_path)
    resumed = planted()
    reproduce(resumed, "quick", tmp_path, resume=True)
    assert {part["seed"] for part in resumed.measured} == {0}


def test_what_the_machine_lacks_is_said_and_parts_made_elsewhere_are_kept(tmp_path, registered, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        reproduce(planted(stop_at=4), "quick", tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Coin, "lacking", lambda self, settings: "There is no coin here.")
        made = reproduce(planted(), "quick", tmp_path, resume=True)
    assert (made.not_run, len(made.table)) == ("There is no coin here.", 0)
    resumed = planted()
    reproduce(resumed, "quick", tmp_path, resume=True)
    assert len(resumed.measured) == 2


def test_only_a_preset_that_needs_a_gpu_runs_on_one(monkeypatch):
    assert [Coin().device(preset.settings) for preset in (Coin.quick, Coin.paper)] == ["cpu", "cpu"]
    monkeypatch.setattr(Coin, "paper", dataclasses.replace(Coin.paper, needs_gpu="many coins"))
    assert [Coin().device(preset.settings) for preset in (Coin.quick, Coin.paper)] == ["cpu", "cuda"]


def test_parts_of_other_settings_or_revisions_are_not_taken(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        reproduce(planted(stop_at=4), "quick", tmp_path)
    monkeypatch.setattr(Coin, "revision", 2)
    changed = planted()
    reproduce(changed, "quick", tmp_path, resume=True)
    assert len(changed.measured) == 6
    other = Coin()
    assert work_key(other, other.quick.settings, "1") != work_key(other, other.paper.settings, "1")
    assert work_key(other, other.quick.settings, "1") != work_key(other, other.quick.settings, "2")


class Seeds(Coin):
    """Draws that do not depend on how many seeds and widths are asked for."""

    def bearing(self, part, settings):
        return dataclasses.replace(settings, n_seeds=1, widths=(part["width"],))


def test_finished_parts_serve_a_smaller_run_and_are_left_to_the_larger(tmp_path, registered):
    with pytest.raises(KeyboardInterrupt):
        reproduce(Seeds(stop_at=4), "quick", tmp_path)
    fewer = dataclasses.replace(Coin.quick.settings, n_seeds=2, widths=(1.0,))
    small = Seeds()
    made = reproduce(small, "quick", tmp_path, settings=fewer, resume=True)
    assert small.measured == []
    assert made.table == Coin().run(fewer)
    larger = Seeds()
    assert reproduce(larger, "quick", tmp_path, resume=True).table == Coin().run(Coin.quick.settings)
    assert len(larger.measured) == 2
    assert not (tmp_path / "parts").exists()
    # What bears on the draws is not passed over.
    with pytest.raises(KeyboardInterrupt):
        reproduce(Seeds(stop_at=4), "quick", tmp_path)
    moved = Seeds()
    reproduce(moved, "quick", tmp_path, settings=dataclasses.replace(fewer, centre=3.0), resume=True)
    assert len(moved.measured) == 2


@dataclasses.dataclass(frozen=True)
class KeptSettings(CoinSettings):
    data: str = place("here", "where the coins lie")


class Kept(Coin):
    quick = Preset(KeptSettings(n_seeds=3), seconds=0.1)

    def inputs(self, settings):
        return settings.data[0]


def test_where_the_data_lie_does_not_matter_and_what_they_are_does(tmp_path, registered):
    with pytest.raises(KeyboardInterrupt):
        reproduce(Kept(stop_at=4), "quick", tmp_path)
    for data, n_missing in (("hence", 2), ("there", 6)):
        resumed = Kept()
        folder = tmp_path / data
        shutil.copytree(tmp_path / "parts", folder / "parts")
        settings = dataclasses.replace(Kept.quick.settings, data=data)
        assert reproduce(resumed, "quick", folder, settings=settings, resume=True).settings.data == data
        assert len(resumed.measured) == n_missing


def test_the_cost_is_that_of_the_parts_that_are_missing(tmp_path):
    class Uneven(Coin):
        def seconds_by_part(self, settings, preset):
            return [10.0**place for place, _ in enumerate(self.parts(settings))]

    assert cost(Order(Uneven(), "quick", tmp_path)).seconds == pytest.approx(111_111)
    with pytest.raises(KeyboardInterrupt):
        reproduce(Uneven(stop_at=4), "quick", tmp_path)
    found = cost(Order(Uneven(), "quick", tmp_path))
    assert (found.n_parts, found.n_finished, found.seconds) == (6, 4, pytest.approx(110_000))


def test_a_damaged_part_is_measured_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        reproduce(planted(stop_at=4), "quick", tmp_path)
    files = sorted((tmp_path / "parts").glob("*.part"))
    files[0].write_bytes(files[0].read_bytes()[:-20])
    files[1].write_text("[]")
    resumed = planted()
    made = reproduce(resumed, "quick", tmp_path, resume=True)
    assert len(resumed.measured) == 4
    assert made.table == planted().run(Coin.quick.settings)


def test_a_part_is_written_whole_or_not_at_all(tmp_path):
    store = PartStore(tmp_path / "parts", "key")
    with pytest.raises(UserError, match=r"cannot write .*What is finished is kept"):
        store.save({"seed": 0}, Table([{"a": 1}]), 1.0)
    assert store.load({"seed": 0}) is None
    with store.held():
        store.save({"seed": 0}, Table([{"a": 1}]), 1.0)
    assert store.load({"seed": 0}) == (Table([{"a": 1}]), 1.0)
    assert PartStore(tmp_path / "parts", "other key").load({"seed": 0}) is None


def test_two_processes_do_not_work_on_one_output(tmp_path):
    with PartStore(tmp_path / "parts", "key").held(), pytest.raises(UserError, match="another process is at work"):
        reproduce(planted(), "quick", tmp_path)


# Worth several processes, as they say, and done in a moment.


class FewFeatures(RandomFeatures):
    quick = Preset(FeatureSettings(n_seeds=2, n_features=(10, 100), logit_scales=(1.0,)), seconds=1000)


class FewSteps(DualDescent):
    quick = Preset(dataclasses.replace(DualDescent.quick.settings, n_seeds=2), seconds=1000)


def test_numbers_do_not_depend_on_the_processes(tmp_path):
    tables = []
    for jobs in (1, 2):
        orders = []
        for recipe in (FewFeatures(), FewSteps()):
            orders.append(Order(recipe, "quick", tmp_path / f"{recipe.id}-{jobs}"))
            orders[-1].folder.mkdir()
        shares = []
        outcomes = list(reproduce_all(orders, jobs=jobs, watch=lambda share, _, to=shares: to.append(share)))
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1)
        tables.append({outcome.order.recipe.id: outcome.made.table for outcome in outcomes})
    assert tables[0] == tables[1]
    assert len(tables[0]) == 2


def test_what_watches_the_clock_runs_last_and_in_this_process(tmp_path):
    class Clocked(Coin):
        def alone(self, part, settings):
            return True

    clocked = Clocked()
    orders = [Order(clocked, "quick", tmp_path / "clocked"), Order(FewSteps(), "quick", tmp_path)]
    orders[0].folder.mkdir()
    outcomes = list(reproduce_all(orders, jobs=2))
    assert [outcome.order for outcome in outcomes] == orders[::-1]
    # Counted in this process.
    assert len(clocked.measured) == 6


def test_progress_rises_to_the_end():
    seen = []
    Coin().run(Coin.quick.settings, lambda done, total, message: seen.append(done / total))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) == 6
