"""`iclens absorb`: tables and an adapter from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.selection.words import draw

from iclens.cli.absorb import read_layers
from iclens.cli.main import main
from iclens.errors import UserError

KNOWN = draw(3, n_wrong=0)
LABELS = ["--candidates", *KNOWN.labels, "--template", "{input} is {output} ."]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, pairs in (("pool", KNOWN.pool), ("dev", KNOWN.dev)):
        rows = [json.dumps({"input": word, "output": label}) + "\n" for word, label in pairs]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    return tmp_path


def command(line: str) -> int:
    return main(["absorb", *line.split(), *LABELS])


def test_it_prints_tables_and_writes_an_adapter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("pool.jsonl --queries dev.jsonl --rank 2 --layers 1-2 --out adapter --json all.json") == 0
    printed = capsys.readouterr()
    assert "12 demonstrations, 12 queries to fit by, 12 that take no part; 6 fits of 4 matrices" in printed.err
    for part in ("In words", "What it is worth", "By rank", "By demonstrations", "written: adapter"):
        assert part in printed.out
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "bundled"
    assert config["r"] == 2
    assert json.loads((folder / "all.json").read_text())["layers"] == [1, 2]
    explained = ["explain", "--model", "adapter", "--prompt", "prompt.txt"]
    (folder / "prompt.txt").write_text("\n\n".join([*(f"{word} is {out} ." for word, out in KNOWN.pool), "cat is"]))
    pytest.importorskip("peft")
    assert main(explained) == 0


def test_a_dry_run_tells_the_cost_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.iterdir())
    assert command("pool.jsonl --queries dev.jsonl --out adapter --compare-lora --dry-run") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "for the training of two LoRAs; all about" in printed.err
    assert sorted(folder.iterdir()) == before


def test_without_curves_only_the_main_table_is_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("pool.jsonl --queries dev.jsonl --rank 2 --no-curves") == 0
    printed = capsys.readouterr()
    assert "1 fits of" in printed.err
    assert "By rank" not in printed.out
    assert "By demonstrations" not in printed.out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("pool.jsonl --queries none.jsonl", "none.jsonl"),
        ("pool.jsonl --queries dev.jsonl --layers x", "write numbers and ranges"),
        ("pool.jsonl --queries dev.jsonl --out pool.jsonl", "is a file"),
        ("pool.jsonl --queries dev.jsonl --out .", "holds other files"),
        ("pool.jsonl --queries dev.jsonl --json none/all.json", "does not exist"),
        ("pool.jsonl --queries dev.jsonl --no-curves --ranks 1", "leave --ranks"),
        ("pool.jsonl --queries dev.jsonl --layers 90", "has the layers 0 to"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    assert command(line) == 2
    assert says in capsys.readouterr().err


def test_layers_are_read_as_numbers_and_ranges() -> None:
    assert read_layers("8-10,3, 5") == [8, 9, 10, 3, 5]
    for wrong in ("", "-3", "4-", "5-2", "a-b"):
        with pytest.raises(UserError):
            read_layers(wrong)
