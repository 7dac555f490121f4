"""`iclens bench`: the list, the files it writes, its exit status, and the subcommand that shares its name."""

from __future__ import annotations

import json

import pytest
import torch

from iclens.benchmarks import ceilings, document
from iclens.benchmarks.case import CASES, Absent, Agreement, Comparison, Curve, Listing, Side, Target, Verdict, takes
from iclens.benchmarks.ceilings import Ceilings, Floor
from iclens.cli import bench
from iclens.cli.main import main
from iclens.errors import UserError

FIELDS = {
    "schema_version": int,
    "sha256": str,
    "case": str,
    "description": str,
    "command": str,
    "measured": str,
    "quick": bool,
    "long": bool,
    "pairs": int,
    "threads": int,
    "device": str,
    "environment": dict,
    "ceilings": dict,
    "good": bool,
    "seconds": float,
    "results": list,
}
COMPARISON = {
    "kind", "what", "ours", "other", "agrees", "agreements", "speed_up", "peak_mib", "floor", "targets",
}  # fmt: skip


def planted(context, wrong=0.0, bound=1e-3):
    """A case with one entry of every kind."""
    x = torch.randn(8)
    yield Comparison(
        "sums of x",
        Side("ours", lambda: x + x + wrong),
        Side("theirs", lambda: 2 * x),
        lambda: [Agreement.of("sums", x + x + wrong, 2 * x)],
        Floor(8.0, 64.0, "one addition each"),
        (Target("speed-up", bound, "planted"),),
    )
    yield Curve("sums of ranges", "numbers", (1000, 2000), {"sum": lambda n: lambda: sum(range(n))})
    yield Listing("rows", [{"method": "a", "AUC": 0.5}], (Verdict("AUC is a half", True, "0.5"),))
    yield Absent("a peer", "it is not installed")


@pytest.fixture(autouse=True)
def cases(monkeypatch):
    """Three planted cases, and ceilings that cost nothing."""

    def good(context):
        """A case that is good.

        More of it.
        """
        yield from planted(context)

    def disagreeing(context):
        """Outputs differ."""
        yield from planted(context, wrong=1.0)

    def missing_its_target(context):
        """Too slow."""
        yield from planted(context, bound=1e9)

    entries = {"good": good, "disagreeing": disagreeing, "missing": missing_its_target}
    monkeypatch.setattr(ceilings, "measure_ceilings", lambda *a, **k: Ceilings({"float32": 1e9, "float64": 1e9}, 1e9))
    with CASES.restored(entries):
        yield


def run(tmp_path, *arguments):
    return main(["bench", *arguments, "--pairs", "2", "--out", str(tmp_path / "out")])


def test_list_shows_names_and_first_lines(capsys):
    assert main(["bench", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["disagreeing", "good", "missing"]
    assert lines[1].endswith("A case that is good.")


def test_a_good_case_writes_json_plots_and_the_page(tmp_path, capsys):
    assert run(tmp_path, "good") == 0
    out = tmp_path / "out"
    found = json.loads((out / "good.json").read_text())
    assert set(found) == set(FIELDS)
    assert all(isinstance(found[name], kind) for name, kind in FIELDS.items())
    assert set(found["results"][0]) == COMPARISON
    assert set(found["environment"]) == {"machine", "versions", "load", "load_after"}
    assert found["command"] == "iclens bench good --threads 1 --pairs 2"
    assert len(found["results"][0]["speed_up"]["pairs"]) == 2
    page = (out / "results.md").read_text()
    for piece in ("## good", "sums of x", "exponent", "| a | 0.50 |", "a peer: it is not installed", "good-ratios.svg"):
        assert piece in page
    assert (out / "good-curves.svg").read_text().lstrip().startswith("<?xml")
    printed = capsys.readouterr()
    assert "times as fast" in printed.out
    assert "a peer is left out: it is not installed" in printed.err


def test_wrong_outputs_fail_without_a_time(tmp_path, capsys):
    assert run(tmp_path, "disagreeing") == 1
    found = json.loads((tmp_path / "out" / "disagreeing.json").read_text())
    assert found["good"] is False
    assert found["results"][0]["speed_up"] is None
    assert "DISAGREE" in capsys.readouterr().out
    assert "DISAGREE" in (tmp_path / "out" / "results.md").read_text()


def test_a_missed_target_fails_with_its_numbers(tmp_path, capsys):
    assert run(tmp_path, "missing") == 1
    assert "MISSED" in capsys.readouterr().out
    assert "MISSED" in (tmp_path / "out" / "results.md").read_text()


def test_the_page_keeps_what_other_cases_left(tmp_path):
    run(tmp_path, "good")
    run(tmp_path, "missing")
    page = (tmp_path / "out" / "results.md").read_text()
    assert "## good" in page
    assert "## missing" in page


def test_redraw_gives_the_same_page_and_plots(tmp_path):
    run(tmp_path, "good")
    out = tmp_path / "out"
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    (out / "results.md").unlink()
    (out / "unrelated.json").write_text("[1, 2]")
    assert main(["bench", "--redraw", "--out", str(out)]) == 0
    (out / "unrelated.json").unlink()
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_resume_measures_only_what_is_not_there(tmp_path, capsys):
    run(tmp_path, "good")
    file = tmp_path / "out" / "good.json"
    before = file.read_bytes()
    assert run(tmp_path, "good", "missing", "--resume") == 1
    assert file.read_bytes() == before
    assert (tmp_path / "out" / "missing.json").exists()
    assert "good: was measured" in capsys.readouterr().err
    assert main(["bench", "good", "--resume", "--pairs", "3", "--out", str(tmp_path / "out")]) == 0
    assert file.read_bytes() != before


def test_a_finished_case_that_missed_its_target_still_fails(tmp_path):
    assert run(tmp_path, "missing") == 1
    assert run(tmp_path, "missing", "--resume") == 1


def test_other_versions_are_measured_again(tmp_path, monkeypatch, capsys):
    run(tmp_path, "good")
    monkeypatch.setattr(document, "versions", lambda: {"a-peer": "2.0"})
    capsys.readouterr()
    assert run(tmp_path, "good", "--resume") == 0
    assert "was measured" not in capsys.readouterr().err


def test_the_time_is_said_first(tmp_path, monkeypatch, capsys):
    takes(7, long=20)(CASES["good"])
    takes(3)(CASES["missing"])
    assert main(["bench", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "about 7 min" in listed
    assert "time unknown" in listed
    run(tmp_path, "good", "missing")
    assert "in all about 10 min" in capsys.readouterr().err
    run(tmp_path, "good", "--long")
    assert "good: about 20 min" in capsys.readouterr().err


def test_publish_writes_what_the_site_needs(tmp_path):
    site = tmp_path / "site"
    assert run(tmp_path, "good", "--publish", str(site)) == 0
    plots = {f"good-{kind}{mode}.svg" for kind in ("curves", "ratios") for mode in ("", "-dark")}
    assert {file.name for file in site.iterdir()} == {"good.json", *plots}
    assert json.loads((site / "good.json").read_text()) == json.loads((tmp_path / "out" / "good.json").read_text())
    before = (site / "good-ratios.svg").read_bytes()
    (site / "good-ratios.svg").unlink()
    assert main(["bench", "--redraw", "--out", str(tmp_path / "out"), "--publish", str(site)]) == 0
    assert (site / "good-ratios.svg").read_bytes() == before


def test_quick_numbers_are_not_published(tmp_path, capsys):
    run(tmp_path, "good", "--quick")
    site = tmp_path / "site"
    assert main(["bench", "--redraw", "--out", str(tmp_path / "out"), "--publish", str(site)]) == 0
    assert not list(site.iterdir())
    assert "good is not published" in capsys.readouterr().err


def test_without_names_all_cases_run(tmp_path):
    assert run(tmp_path) == 1
    assert len(list((tmp_path / "out").glob("*.json"))) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["god"], "unknown benchmark 'god'. Did you mean 'good'?"),
        (["--pairs", "0"], "--pairs 0: at least 1."),
        (["--threads", "0"], "--threads 0: at least 1."),
        (["--redraw", "--out", "nowhere"], "nowhere holds no measured case"),
        (["--redraw", "--resume"], "nothing to --resume"),
        (["--quick", "--long"], "give one of them"),
        (["--quick", "--publish", "site"], "--quick makes none"),
    ],
)
def test_mistakes_are_named(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda needs a GPU"):
        bench.Bench(cases=("good",), device="cuda").run()


def test_cases_that_know_no_gpu_say_so(tmp_path, monkeypatch, capsys):
    # Only the command believes in a GPU; nothing else here asks for one.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(document, "machine", lambda threads: {"CPU": "a CPU"})
    assert run(tmp_path, "good", "--device", "cuda") == 0
    assert "runs on the CPU only" in capsys.readouterr().err


def test_help_says_how_and_where_attribution_is(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "interleaved pairs" in out
    assert "iclens reproduce attribution" in out
