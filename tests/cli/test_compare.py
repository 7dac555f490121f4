"""`iclens compare` as a user meets it: two files of `iclens explain --json`, a table, a page, an exit status."""

import json
from pathlib import Path

import pytest

from iclens import Explanation, compare
from iclens.cli.main import main

PROMPTS = {
    "a": "cat is blick .\n\nsaw is nef .\n\ndog is blick .\n\nhorse is",
    "b": "dog is blick .\n\ncat is blick .\n\nsaw is nef .\n\nhorse is",
    "c": "plum is vux .\n\nhorse is",
}


@pytest.fixture
def files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, text in PROMPTS.items():
        Path(f"{name}.txt").write_text(text)
        assert main(["explain", "--prompt", f"{name}.txt", "--answers", "blick", "nef", "--json", f"{name}.json"]) == 0
    capsys.readouterr()


def test_two_orders_are_compared_and_written(files, capsys):
    assert main(["compare", "a.json", "b.json", "--html", "c.html", "--json", "c.json"]) == 0
    both = compare(Explanation.load("a.json"), Explanation.load("b.json"))
    said = " ".join(capsys.readouterr().out.split())
    for sentence in both.conclusion:
        assert sentence in said
    assert "What differs: #2 → #0 was moved." in said
    assert json.loads(Path("c.json").read_text(encoding="utf-8")) == both.to_dict()
    assert Path("c.html").read_text(encoding="utf-8") == both.to_html()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.json", "none.json"], "none.json cannot be read"),
        (["a.json", "a.txt"], "is not JSON"),
        (["a.json", "c.json"], "no source is in both"),
        (["a.json", "b.json", "--html", "no/folder/c.html"], "no/folder"),
    ],
)
def test_every_mistake_gets_one_sentence(files, capsys, arguments, words):
    assert main(["compare", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.startswith("error: ")
    assert said.out == ""


def test_the_exit_status_tells_that_a_check_failed(files, capsys):
    document = json.loads(Path("b.json").read_text(encoding="utf-8"))
    document["residuals"][0]["value"] = 1.0
    Path("b.json").write_text(json.dumps(document), encoding="utf-8")
    assert main(["compare", "a.json", "b.json"]) == 1
    assert "checks of B against the model do not hold" in capsys.readouterr().out
