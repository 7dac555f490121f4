"""`iclens reproduce`: what it writes, refuses, resumes and redraws."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest

from iclens.cli.main import main
from iclens.errors import UserError
from iclens.recipes.contract import RECIPES, Preset, Recipe
from iclens.recipes.figures import new_figure
from iclens.recipes.settings import chosen
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim

SMALL = Claim("Squares are small.", "a paper", "stated")
FILES = {
    "index.html", "table.csv", "table.json", "figure.png", "figure.svg", "figure-dark.svg", "verdicts.json",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    n: int = chosen(3)


class Squares(Recipe[Settings]):
    """Squares of small numbers."""

    id = "squares"
    title = "Squares"
    reference = "a paper, Fig. 1"
    claims = (SMALL,)
    quick = Preset(Settings(), seconds=0.1)
    paper = Preset(Settings(n=5), seconds=100)
    more: ClassVar = {"large": Preset(Settings(n=7), seconds=1)}
    measured = 0
    stop_at = None

    def parts(self, settings):
        return [{"x": x} for x in range(settings.n)]

    def measure(self, part, settings, progress):
        if type(self).measured == type(self).stop_at:
            raise KeyboardInterrupt
        type(self).measured += 1
        return Table([{"square": part["x"] ** 2}])

    def check(self, table, settings):
        largest = table.column("square").max()
        return [SMALL.judged(largest <= 3, f"largest {largest:g}", "largest ≤ 3")]

    def plot(self, table, settings):
        figure = new_figure(3, 2)
        figure.subplots().plot(table.column("x"), table.column("square"))
        return figure


class Broken(Squares):
    """Cannot do its work."""

    id = "broken"

    def measure(self, part, settings, progress):
        raise UserError("there is no data.")


@pytest.fixture(autouse=True)
def recipes(monkeypatch):
    monkeypatch.setattr(Squares, "measured", 0)
    monkeypatch.setattr(Squares, "stop_at", None)
    with RECIPES.restored({"squares": Squares(), "broken": Broken()}):
        yield


def reproduce(tmp_path, *arguments):
    return main(["reproduce", *arguments, "--out", str(tmp_path / "out")])


def test_a_claim_that_fails_is_a_result(tmp_path, capsys):
    assert reproduce(tmp_path, "squares") == 0
    folder = tmp_path / "out" / "squares"
    assert {file.name for file in folder.iterdir()} == FILES
    assert (tmp_path / "out" / "index.html").exists()
    out = capsys.readouterr()
    assert "does not hold: Squares are small. (largest 4)" in out.out
    assert "squares: about 0.1 s" in out.err
    (verdict,) = json.loads((folder / "verdicts.json").read_text())
    assert verdict["outcome"] == "does not hold"
    assert list(csv.DictReader((folder / "table.csv").read_text().splitlines()))[2] == {"x": "2", "square": "4"}
    document = json.loads((folder / "table.json").read_text())
    assert document["command"] == f"iclens reproduce squares --preset quick --out {tmp_path / 'out'}"
    assert document["columns"] == {"x": [0, 1, 2], "square": [0, 1, 4]}
    assert document["machine"]["cores"].isdigit()
    page = (folder / "index.html").read_text()
    assert document["machine"]["CPU"].split()[0] in page


def test_interrupted_then_resumed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Squares, "stop_at", 2)
    assert reproduce(tmp_path, "squares") == 130
    assert "add --resume to go on" in capsys.readouterr().err
    monkeypatch.setattr(Squares, "stop_at", None)
    assert reproduce(tmp_path, "squares", "--resume") == 0
    assert Squares.measured == 3
    assert reproduce(tmp_path, "squares", "--resume") == 0
    assert Squares.measured == 3
    assert reproduce(tmp_path, "squares") == 0
    assert Squares.measured == 6


def test_redraw_computes_nothing(tmp_path, monkeypatch):
    assert reproduce(tmp_path, "squares") == 0
    folder = tmp_path / "out" / "squares"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for file in folder.iterdir():
        if file.name != "table.json":
            file.unlink()
    assert reproduce(tmp_path, "--redraw") == 0
    assert Squares.measured == 3
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    # Judged anew: a recipe whose tolerance changed says so without measuring.
    monkeypatch.setattr(Squares, "check", lambda self, table, settings: [SMALL.judged(True, "4", "largest ≤ 5")])
    assert reproduce(tmp_path, "squares", "--redraw") == 0
    assert json.loads((folder / "verdicts.json").read_text())[0]["outcome"] == "holds"


def test_all_goes_on_after_one_that_cannot_run(tmp_path, capsys):
    assert reproduce(tmp_path, "--all") == 1
    err = capsys.readouterr().err
    assert "error: broken: there is no data." in err
    assert "in all about 0.2 s of one core" in err
    index = (tmp_path / "out" / "index.html").read_text()
    assert "squares/index.html" in index
    assert "broken/index.html" not in index
    assert reproduce(tmp_path, "broken") == 2


def test_index_shows_what_earlier_runs_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Broken, "measure", Squares.measure)
    assert reproduce(tmp_path, "squares", "--preset", "paper") == 0
    assert reproduce(tmp_path, "broken") == 0
    index = (tmp_path / "out" / "index.html").read_text()
    assert "squares · paper" in index
    assert "broken · quick" in index
    table = tmp_path / "out" / "squares" / "table.json"
    table.write_text("{")
    assert reproduce(tmp_path, "broken") == 0
    assert "left out of the index" in capsys.readouterr().err
    (tmp_path / "out" / "squares").rename(tmp_path / "out" / "cubes")
    assert reproduce(tmp_path, "broken") == 0
    assert "no recipe has that name" in capsys.readouterr().err


def test_a_published_gallery_has_pages_and_no_tables(tmp_path, capsys):
    site = tmp_path / "site"
    assert reproduce(tmp_path, "squares", "--publish", str(site)) == 0
    made = {file.name: file.read_bytes() for file in (tmp_path / "out" / "squares").iterdir()}
    published = {file.name: file.read_bytes() for file in (site / "squares").iterdir()}
    assert set(published) == {"index.html", "record.json", "verdicts.json", "figure.svg", "figure-dark.svg"}
    for name in ("verdicts.json", "figure.svg", "figure-dark.svg"):
        assert published[name] == made[name]
    table = json.loads(made["table.json"])
    table.pop("columns")
    table.pop("sha256")
    assert json.loads(published["record.json"]) == table
    assert b"table.csv" in made["index.html"]
    assert b"table.csv" not in published["index.html"]
    assert "squares/index.html" in (site / "index.html").read_text()
    # Later, from what lies there.
    again = tmp_path / "again"
    assert reproduce(tmp_path, "--publish", str(again)) == 0
    assert (again / "squares" / "index.html").read_bytes() == published["index.html"]
    # What was published before from elsewhere stays in the index.
    (site / "squares").rename(site / "another")
    record = json.loads((site / "another" / "record.json").read_text())
    (site / "another" / "record.json").write_text(json.dumps(record | {"recipe": "another"}))
    assert reproduce(tmp_path, "--publish", str(site)) == 0
    index = (site / "index.html").read_text()
    assert "another/index.html" in index
    assert "squares/index.html" in index
    (site / "another" / "record.json").write_text("{")
    assert reproduce(tmp_path, "--publish", str(site)) == 2
    assert "is not published whole" in capsys.readouterr().err


def test_list_names_every_recipe(tmp_path, capsys):
    assert reproduce(tmp_path, "--list") == 0
    out = capsys.readouterr().out
    assert "squares" in out
    assert "2 min" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sqares",), "unknown recipe 'sqares'. Did you mean 'squares'?"),
        ((), "say which recipes to run, or --all"),
        (("squares", "--all"), "not both"),
        (("squares", "--resume", "--redraw"), "nothing to --resume"),
        (("squares", "--jobs", "0"), "1 or more, not 0"),
        (("--publish", "site"), "nothing to publish"),
        (("--redraw",), "holds no finished recipe"),
        (("squares", "--redraw"), "holds no finished recipe: run it first"),
    ],
)
def test_bad_input_is_refused_before_work(tmp_path, capsys, arguments, message):
    assert reproduce(tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err
    assert Squares.measured == 0


def test_an_output_folder_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert reproduce(tmp_path, "squares") == 2
    assert "a file has that name" in capsys.readouterr().err


def test_a_setting_is_overridden_and_said_in_the_command(tmp_path, capsys):
    assert reproduce(tmp_path, "squares", "n=2") == 0
    assert Squares.measured == 2
    document = json.loads((tmp_path / "out" / "squares" / "table.json").read_text())
    assert document["settings"] == {"n": 2}
    assert "reproduce squares n=2" in document["command"]
    # Another number is other work, and the same one is taken up.
    assert reproduce(tmp_path, "squares", "n=4", "--resume") == 0
    assert Squares.measured == 6
    assert reproduce(tmp_path, "squares", "n=4", "--resume") == 0
    assert Squares.measured == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["squares", "m=2"], "there is no setting 'm'"),
        (["squares", "n=two"], "n='two' must be of type int"),
        (["squares", "n=2", "n=3"], "given twice"),
        (["squares", "broken", "n=2"], "give the id of one recipe"),
        (["n=2"], "give the id of one recipe"),
        (["squares", "n=2", "--redraw"], "give the id of one recipe"),
        (["squares", "--preset", "small"], "squares has no preset 'small'; it has quick, paper, large."),
    ],
)
def test_overrides_are_checked_before_anything_runs(tmp_path, capsys, words, message):
    assert reproduce(tmp_path, *words) == 2
    assert message in capsys.readouterr().err
    assert Squares.measured == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["squares", "n=10", "--dry-run", "--preset", "paper"],
        ["squares", "--dry-run", "n=10", "--preset", "paper"],
        ["--preset", "paper", "squares", "--dry-run", "n=10"],
    ],
)
def test_overrides_stand_before_and_after_options(tmp_path, capsys, words):
    assert reproduce(tmp_path, *words) == 0
    assert capsys.readouterr().out == "squares: 10 parts, 0 finished before, 10 to do: about 3 min of one core\n"


@pytest.mark.parametrize("words", [["--dry-run", "n"], ["--dry-run", "--m=2"], ["--dry-run", "n=2", "--m=2"]])
def test_what_is_no_override_is_unrecognized(tmp_path, capsys, words):
    with pytest.raises(SystemExit, match="2"):
        reproduce(tmp_path, "squares", *words)
    assert "Unrecognized options" in capsys.readouterr().err


def test_a_recipe_may_have_more_presets(tmp_path):
    assert reproduce(tmp_path, "squares", "--preset", "large") == 0
    assert Squares.measured == 7


def test_a_dry_run_counts_what_is_finished_and_computes_nothing(tmp_path, capsys, monkeypatch):
    assert reproduce(tmp_path, "squares", "--dry-run", "--preset", "paper") == 0
    assert capsys.readouterr().out == "squares: 5 parts, 0 finished before, 5 to do: about 2 min of one core\n"
    # Twice the parts, twice the time.
    assert reproduce(tmp_path, "squares", "n=10", "--dry-run", "--preset", "paper") == 0
    assert "10 parts, 0 finished before, 10 to do: about 3 min" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(Squares, "stop_at", 2)
    assert reproduce(tmp_path, "squares") == 130
    capsys.readouterr()
    assert reproduce(tmp_path, "squares", "--dry-run") == 0
    assert "3 parts, 2 finished before, 1 to do: about 0.0 s" in capsys.readouterr().out
    assert Squares.measured == 2
    monkeypatch.setattr(Squares, "stop_at", None)
    assert reproduce(tmp_path, "squares", "--resume") == 0
    capsys.readouterr()
    assert reproduce(tmp_path, "squares", "--dry-run") == 0
    assert "3 parts, 3 finished before, 0 to do" in capsys.readouterr().out


def test_small_tables_of_a_recipe_are_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        Squares, "summaries", lambda self, table, settings: {"In short": Table([{"what": "largest", "value": 4.0}])}
    )
    assert reproduce(tmp_path, "squares") == 0
    printed = capsys.readouterr().out
    assert "In short" in printed
    assert "largest" in printed


@pytest.mark.parametrize("words", [["finetune", "--tasks", "cola"], ["bench", "attribution", "--study", "limits"]])
def test_a_command_that_became_a_recipe_says_so(words, capsys):
    assert main(words) == 2
    assert "is a recipe now: `iclens reproduce " in capsys.readouterr().err
