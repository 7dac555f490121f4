"""`iclens explain` as a user meets it: the bundled model, files, and one clear error for every mistake."""

import json
import shlex
from pathlib import Path

import pytest
import torch
import tyro
from tests.cli.batches import inexact_model

from iclens import Explanation, UserError, bundled, explain, load
from iclens.cli.explain import Explain
from iclens.cli.main import main
from iclens.cli.response_options import Responses
from iclens.cli.source_options import Sources
from iclens.lens import WRITERS
from iclens.lens.model.catalogue import handled, refused


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
    right = {d["index"] for d in document["sources"] if f"is {answer}" in d["text"]}
    ranked = sorted(document["sources"], key=lambda d: -d["gradient_step"])
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
    assert all(d["rerun_margin_change"] is not None for d in document["sources"])
    # The command that is shown gives the same numbers.
    capsys.readouterr()
    words = shlex.split(document["command"])
    assert main([*words[1:], "--json", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["sources"] == document["sources"]


def test_the_families_are_listed_with_what_is_particular_and_why_others_are_refused(capsys):
    assert main(["explain", "--list-models"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for entry in (*handled(), *refused()):
        assert all(name in said for name in entry.model_types)
    assert "Learned sinks, each a training pair with target 0" in said
    assert "State-space, recurrent or linear-attention layers" in said
    assert "Answer" not in said


def test_the_scores_are_those_that_were_asked_for_in_their_order(tmp_path, capsys):
    file = tmp_path / "e.json"
    assert main(["explain", "--scores", "lasso_margin", "path", "--rerun", "--json", str(file)]) == 0
    found = Explanation.load(file)
    assert found.scores == ("lasso_margin", "path", "rerun")
    assert {residual.key for residual in found.residuals} == {"capture", "path"}
    assert all(effect.gradient_step is effect.knock_out is None for effect in found.sources)
    table = capsys.readouterr().out.split("Demonstrations")[1].split("The rest of the prompt")[0]
    rows = [int(line.split()[0]) for line in table.splitlines() if " is " in line]
    assert rows == [effect.index for effect in found.ranked("lasso_margin")]


def test_precise_takes_the_path_in_double(tmp_path):
    plain, precise = tmp_path / "plain.json", tmp_path / "precise.json"
    assert main(["explain", "--scores", "path", "--json", str(plain)]) == 0
    assert main(["explain", "--scores", "path", "--precise", "--json", str(precise)]) == 0
    one, other = Explanation.load(plain), Explanation.load(precise)
    assert other.cost.forward_passes == one.cost.forward_passes + 1
    assert other.cost.backward_passes == one.cost.backward_passes + 1
    exact = explain(load("bundled", dtype=torch.float64), other.prompt, scores=["path"])
    errors = [
        max(abs(mine.path - right.path) for mine, right in zip(found.sources, exact.sources, strict=True))
        for found in (one, other)
    ]
    assert errors[1] < 1e-9 < errors[0] < 1e-4


def test_command_line_names_what_differs_from_the_defaults():
    command = Explain(model="m m", answers=("a b", "c"), rerun=True, knock_out=("1,2",)).command_line()
    assert command == "iclens explain --model 'm m' --answers 'a b' c --knock-out 1,2 --rerun"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"scores": ("rerun", "lasso"), "precise": True, "seed": 3},
        {"template": "Q: {input}\\nA: {output}", "instruction": "Say 'it'.\n", "instruction_blocks": 2},
        {"prompt": Path("a b.txt"), "answers": ("it's", '"', "$x", " "), "answer": "ü", "knock_out": ("1,2", "0")},
        {"demonstrations": Path("d.jsonl"), "query": "a\nb", "dtype": "float64", "device": "cuda", "next_tokens": 3},
        {"model": "x/y", "device_map": "auto", "faithfulness": True, "rerun": True},
        {"responses": Responses("- a\nb 'c'", None, None, "a\nb", "-d", "logit"), "sources": Sources(split="lines")},
        {"responses": Responses(None, Path("r.txt")), "seed": 0},
        {"responses": Responses(generate=5), "sources": Sources(Path("d.jsonl"), "-why?", True, budget=3)},
    ],
)
def test_command_line_is_read_back_as_the_same_command(given):
    asked = Explain(**given)
    program, subcommand, *words = shlex.split(asked.command_line())
    assert (program, subcommand) == ("iclens", "explain")
    assert tyro.cli(Explain, args=words) == asked


def test_what_is_not_exact_is_said_first_and_is_exit_status_1(tmp_path, capsys):
    arguments = ["--model", inexact_model(tmp_path), "--prompt", str(bundled.path() / "prompt.txt")]
    assert main(["explain", *arguments, "--json", str(tmp_path / "e.json")]) == 1
    assert capsys.readouterr().out.startswith("Do not trust these numbers")
    assert not Explanation.load(tmp_path / "e.json").exact


def test_a_page_that_fails_leaves_no_other_file(tmp_path, capsys):
    def failing(explanation):
        raise UserError("no page today")

    (tmp_path / "e.json").write_text("old")
    with WRITERS.replaced("html", failing):
        assert main(["explain", "--json", str(tmp_path / "e.json"), "--html", str(tmp_path / "e.html")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: no page today"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "no/such/folder", "--prompt", "a.txt"], "there is no folder"),
        (["--model", "smollm2"], "iclens explain --model smollm2 --prompt sums.txt"),
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
        (["--scores", "gradient_stp"], "Did you mean 'gradient_step'"),
        (["--scores", "path", "path"], "'path' is named twice"),
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
