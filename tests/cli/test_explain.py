"""`iclens explain` as a user meets it: the bundled model, files, and one clear error for every mistake."""

import json
import shlex

import pytest

from iclens.cli.explain import Explain
from iclens.cli.main import main


def test_bundled_prompt_gives_the_right_answer_exactly(tmp_path, capsys):
    status = main(["explain", "--json", str(tmp_path / "e.json"), "--html", str(tmp_path / "e.html")])
    assert status == 0
    output = capsys.readouterr().out
    document = json.loads((tmp_path / "e.json").read_text())
    assert document["exact"] is True
    assert document["next_tokens"][0]["text"].strip() in output
    page = (tmp_path / "e.html").read_text()
    assert len(page) < 500_000
    assert json.loads(page.split('id="data">')[1].split("</script>")[0])["explanation"]["exact"] is True
    assert not list(tmp_path.glob(".iclens-*"))
    # Demonstrations of the query's category carry the answer: they, and no others, lead the ranking.
    answer = document["next_tokens"][0]["text"].strip()
    right = {d["index"] for d in document["demonstrations"] if f"is {answer}" in d["text"]}
    ranked = sorted(document["demonstrations"], key=lambda d: -d["gradient_step"])
    assert {d["index"] for d in ranked[: len(right)]} == right


def test_demonstrations_with_a_query_and_a_template(tmp_path, capsys):
    pairs = [("cat", "vux"), ("apple", "nef"), ("dog", "vux"), ("plum", "nef")]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({"input": a, "output": b}) + "\n" for a, b in pairs))
    arguments = ["explain", "--demonstrations", str(file), "--query", "horse", "--template", "{input} is {output} ."]
    status = main(
        [*arguments, "--answers", "vux", "nef", "--knock-out", "0,2", "--rerun", "--json", str(tmp_path / "e.json")]
    )
    assert status == 0
    document = json.loads((tmp_path / "e.json").read_text())
    assert [c["text"] for c in document["candidates"]] == ["vux", "nef"]
    assert document["group_knock_outs"][0]["demonstrations"] == [0, 2]
    assert all(d["rerun_margin_change"] is not None for d in document["demonstrations"])
    # The command that is shown gives the same numbers.
    capsys.readouterr()
    words = shlex.split(document["command"])
    assert main([*words[1:], "--json", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["demonstrations"] == document["demonstrations"]


def test_command_line_names_what_differs_from_the_defaults():
    command = Explain(model="m m", answers=("a b", "c"), rerun=True, knock_out=("1,2",)).command_line()
    assert command == "iclens explain --model 'm m' --answers 'a b' c --knock-out 1,2 --rerun"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "no/such/folder"], "there is no folder"),
        (["--prompt", "nowhere.txt"], "nowhere.txt"),
        (["--demonstrations", "x.jsonl"], "needs --query"),
        (["--prompt", "a.txt", "--demonstrations", "b.jsonl"], "both given"),
        (["--knock-out", "1,x"], "by number"),
        (["--knock-out", "99"], "cannot knock out demonstration 99"),
        (["--next-tokens", "0"], "at least 1"),
        (["--json", "/nowhere/e.json"], "does not exist"),
        (["--answers", "vux", "vux"], "given twice"),
        (["--answers", "zzzz"], "unknown to the tokenizer"),
        (["--template", "x"], "template"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["explain", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []
