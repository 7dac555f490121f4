"""`iclens select`: choose, prune and check from the command line, with the exit statuses of a pipeline."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.selection.words import draw

from iclens.cli.main import main
from iclens.selection import METHODS, Found, Search

KNOWN = draw(3)
LABELS = ["--candidates", *KNOWN.labels, "--template", "{input} is {output} ."]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, pairs in (("pool", KNOWN.pool), ("dev", KNOWN.dev)):
        rows = [json.dumps({"input": word, "output": label}) + "\n" for word, label in pairs]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    text = "\n\n".join([*(f"{word} is {label} ." for word, label in KNOWN.pool), "nothing is"])
    (tmp_path / "prompt.txt").write_text(text)
    return tmp_path


def command(line: str) -> int:
    return main(["select", *line.split(), "--candidates", *KNOWN.labels])


def test_choosing_writes_files_and_checking_reads_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "pool.jsonl --dev dev.jsonl -k 4 --budget 20 --out chosen.jsonl --json all.json --prompt p.txt"
    assert main(["select", *line.split(), "--html", "r.html", "--template", "{input} is {output} ."]) == 0
    printed = capsys.readouterr()
    assert "12 demonstrations, 12 examples to choose by, 12 that take no part; a pass reads 51 tokens" in printed.err
    assert "Keep 4 of 12 demonstrations" in printed.out
    whole = json.loads((folder / "all.json").read_text())
    rows = [json.loads(row) for row in (folder / "chosen.jsonl").read_text().splitlines()]
    assert [row["input"] for row in rows] == [KNOWN.pool[i][0] for i in whole["indices"]]
    assert (folder / "p.txt").read_text() == whole["prompt"]
    page = (folder / "r.html").read_text()
    assert all(f'id="demonstration-{i}"' in page for i in range(12))
    assert not (folder / "chosen.jsonl.parts").exists()
    check = ["select", "chosen.jsonl", "--check", "dev.jsonl", "--template", "{input} is {output} ."]
    assert main([*check, "--at-least", "0.8"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("accuracy 1.000 [1.000, 1.000], log-loss ")
    assert main([*check, "--at-least", "1.1"]) == 1
    assert "below 1.1" in capsys.readouterr().err


def test_pruning_reads_a_prompt(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("prompt.txt --dev dev.jsonl --prune --budget 40 --against none") == 0
    printed = capsys.readouterr().out
    assert "of 12 demonstrations" in printed
    assert "for the other method" not in printed


def test_a_dry_run_times_a_pass_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.iterdir())
    assert command("prompt.txt --dev dev.jsonl --prune --out x.jsonl --dry-run --check-with bundled") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "100 passes at most for choosing, as many for 'random' at the same cost" in printed.err
    assert re.search(r"a pass takes [-.0-9e]+ s here, all about [.0-9]+ (s|min|h)", printed.err)
    assert re.search(r"bundled checks the choice: about 4 passes of 51 tokens, [.0-9]+ (s|min|h)", printed.err)
    assert sorted(folder.iterdir()) == before


def test_a_run_that_is_stopped_goes_on_with_the_same_result(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The method is stopped once after half of its work; what ran before that does not run again."""
    stopped: list[int] = []
    method = METHODS["random"]

    def stops(search: Search) -> Found:
        if not stopped:
            stopped.append(1)
            search.evaluator.said([search.drawn() for _ in range(3)])
            raise KeyboardInterrupt
        return method(search)

    line = "pool.jsonl --dev dev.jsonl -k 4 --budget 20 --against none --method stops --json all.json"
    with METHODS.restored():
        METHODS.register("stops")(stops)
        # Without --out nothing is kept, and nothing else is said.
        assert main(["select", *line.split(), *LABELS]) == 130
        assert "goes on" not in capsys.readouterr().err
        stopped.clear()
        assert main(["select", *line.split(), "--out", "chosen.jsonl", *LABELS]) == 130
        assert "stopped; the same command goes on from here" in capsys.readouterr().err
        assert not (folder / "chosen.jsonl").exists()
        assert list((folder / "chosen.jsonl.parts").glob("*.part"))
        assert main(["select", *line.split(), "--out", "chosen.jsonl", *LABELS]) == 0
        assert "going on from chosen.jsonl.parts: what is finished (1 there)" in capsys.readouterr().err
        resumed = json.loads((folder / "all.json").read_text())
        # A finished run leaves nothing behind, so that the next one runs whole.
        assert not (folder / "chosen.jsonl.parts").exists()
        assert main(["select", *line.split(), "--out", "chosen.jsonl", *LABELS]) == 0
        assert "going on" not in capsys.readouterr().err
    whole = json.loads((folder / "all.json").read_text())
    for one in (resumed, whole):
        del one["cost"]["seconds"]
    assert resumed == whole


def test_other_examples_and_another_model_check_the_choice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (folder / "dev.jsonl").read_text().splitlines(keepends=True)
    (folder / "dev.jsonl").write_text("".join(lines[:14]))
    (folder / "other.jsonl").write_text("".join(lines[14:]))
    asked = "prompt.txt --dev dev.jsonl --held-out other.jsonl -k 4 --budget 20 --against none --check-with bundled"
    assert command(f"{asked} --json all.json") == 0
    printed, whole = capsys.readouterr(), json.loads((folder / "all.json").read_text())
    assert "14 examples to choose by, 10 that take no part" in printed.err
    assert "checks the choice: about" in printed.err
    assert whole["checked"]["held_out"] == whole["held_out"]
    assert "took no part, by bundled" in printed.out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pool.jsonl --dev dev.jsonl", "say how many demonstrations to choose"),
        ("pool.jsonl -k 3", "there are no development examples"),
        ("pool.jsonl --dev dev.jsonl -k 3 --at-least 0.5", "--at-least is for --check"),
        ("pool.jsonl --check dev.jsonl --prune", "leave --dev, --prune, -k, --check-with out"),
        ("pool.jsonl --dev dev.jsonl -k 3 --out chosen.csv", "are a .jsonl file"),
        ("pool.jsonl --dev dev.jsonl -k 3 --out no/chosen.jsonl", "does not exist"),
        ("pool.jsonl --dev dev.jsonl -k 3 --html no/report.html", "does not exist"),
        ("pool.jsonl --dev none.jsonl -k 3", "there is no such file"),
        ("pool.jsonl --dev dev.jsonl -k 99", "k is 99, but the pool has 12"),
        ("pool.jsonl --dev dev.jsonl -k 3 --as-chat", "the tokenizer has no chat template"),
        ("pool.jsonl --dev dev.jsonl -k 3 --prompt p.json", "the prompt is no chat"),
        ("pool.jsonl --dev dev.jsonl -k 3 --method magic", "unknown selection method 'magic'"),
    ],
)
def test_mistakes_have_exit_status_2_and_leave_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    before = sorted(folder.iterdir())
    assert command(line) == 2
    assert said in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


@pytest.mark.slow
def test_a_cluster_chooses_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    for on in ("local", "ray"):
        options = ["--on", "ray"] if on == "ray" else []
        line = f"pool.jsonl --dev dev.jsonl -k 4 --budget 20 --json {on}.json --out {on}.jsonl".split()
        assert main(["select", *line, *LABELS, *options]) == 0
    here, there = (json.loads((folder / f"{on}.json").read_text()) for on in ("local", "ray"))
    assert here["indices"] == there["indices"]
    assert here["demonstrations"] == there["demonstrations"]
    assert here["cost"] | {"seconds": 0} == there["cost"] | {"seconds": 0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--threads", "2"], "--threads is for a Ray cluster: give --on ray as well"),
        (["--on", "ray", "--check", "dev.jsonl"], "--check runs the demonstrations on this machine"),
    ],
)
def test_a_cluster_is_asked_for_by_name(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["select", "pool.jsonl", "--dev", "dev.jsonl", "-k", "4", *options]) == 2
    assert said in capsys.readouterr().err
