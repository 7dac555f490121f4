"""`iclens explain` of a response: given, from a file, or written by the model; a part of it, or against another."""

import json
import shlex

import pytest
from tests.cli.batches import batch, rows, text

from iclens import Explanation, explain, load
from iclens.cli.main import main

RESPONSE = "blick . grape is vux . wrench is nef ."


def explained(tmp_path, *options):
    assert main(["explain", *options, "--json", str(tmp_path / "e.json")]) == 0
    return Explanation.load(tmp_path / "e.json")


def test_a_part_of_a_response_rests_on_its_own_demonstrations(tmp_path, capsys):
    found = explained(tmp_path, "--response", RESPONSE, "--statement", "vux", "--html", str(tmp_path / "e.html"))
    best = sorted(found.sources, key=lambda effect: -effect.scores["influence"])[:3]
    assert all("vux" in effect.text for effect in best)
    output = capsys.readouterr().out
    assert "Log-probability" in output
    assert "logit difference" not in output.lower()
    assert "vux" in (tmp_path / "e.html").read_text()
    (tmp_path / "response.txt").write_text(RESPONSE + "\n")
    again = explained(tmp_path, "--response-file", str(tmp_path / "response.txt"), "--statement", "vux")
    assert again.response == found.response


@pytest.mark.parametrize("seed", [(), ("--seed", "3")])
def test_the_command_that_is_shown_writes_the_same_response_again(tmp_path, seed):
    found = explained(tmp_path, "--generate", "5", *seed, "--measure", "logit")
    again = explained(tmp_path, *shlex.split(found.command)[2:])
    assert again.response == found.response
    assert len(again.response.tokens) <= 5


def test_a_foil_is_subtracted(tmp_path):
    one, two = (explained(tmp_path, "--response", text) for text in ("blick .", "nef ."))
    both = explained(tmp_path, "--response", "blick .", "--foil", "nef .")
    assert both.margin == pytest.approx(one.margin - two.margin, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--response", "vux", "--response-file", "r.txt"), "both given"),
        (("--response-file", "nowhere.txt"), "nowhere.txt cannot be read"),
        (("--response", "vux", "--answers", "vux"), "not both"),
        (("--statement", "vux"), "is for a response"),
        (("--batch", "p.jsonl", "--out", "o.parquet", "--pairs"), "--pairs is for one prompt"),
    ],
)
def test_contradictions_are_refused_in_a_sentence(options, message, capsys):
    assert main(["explain", *options]) == 2
    assert message in capsys.readouterr().err


def test_lines_of_a_file_say_their_own_responses_and_the_options_hold_for_the_others(tmp_path, capsys):
    lines = [
        {"id": "given", "prompt": text(4), "response": "vux . grape is nef ."},
        {"id": "written", "prompt": text(5)},
        {"id": "part", "prompt": text(4), "response": "vux . grape is nef .", "statement": "nef", "foil": "zup"},
        {"id": "never", "prompt": text(3), "statement": "xyz"},
        {"id": "answers", "prompt": text(4), "answers": ["vux", "nef"]},
    ]
    options = ["--generate", "3", "--within", "lines", "--budget", "1", "--dtype", "float64"]
    model = load("bundled", dtype="float64")
    assert batch(tmp_path, lines, *options) == 0
    assert "4 prompts explained" in capsys.readouterr().out
    found = rows(tmp_path)
    (bad,) = (row for row in found if row["error"])
    assert bad["id"] == "never"
    assert "'xyz' does not occur in the response" in bad["error"]
    for line in lines[:3]:
        how = {key: line[key] for key in ("response", "statement", "foil") if key in line} or {"generate": 3}
        alone = explain(model, line["prompt"], within="lines", budget=1, **how).to_rows()
        beside = [row for row in found if row["id"] == line["id"]]
        assert len(beside) == len(alone)
        for mine, theirs in zip(beside, alone, strict=True):
            for key in ("response", "statement", "foil", "measure", "response_tokens", "statements", "pieces"):
                assert mine[key] == theirs[key]
            for key in ("response_log_probabilities", "token_influence", "statement_influence", "piece_scores"):
                assert mine[key] == pytest.approx(theirs[key], rel=1e-8, abs=1e-9)
            assert mine["margin"] == pytest.approx(theirs["margin"], rel=1e-9)
    assert all(row["response"] is None for row in found if row["id"] == "answers")
    # The same command again finds its work done; another one does it again.
    assert batch(tmp_path, lines, *options) == 0
    assert "already" in capsys.readouterr().out
    assert batch(tmp_path, lines, "--generate", "3", "--no-matrix", "--dtype", "float64") == 0
    assert all(row["token_influence"] == [] for row in rows(tmp_path) if row["response"])


def test_a_response_of_several_statements_is_cited_by_each(tmp_path, capsys):
    whole = explained(tmp_path, "--response", RESPONSE, "--no-matrix")
    assert "--no-matrix" in whole.command
    assert whole.response.influence == ()
    cited = json.loads((tmp_path / "e.json").read_text())["citations"]
    assert [one["statement"] for one in cited] == [RESPONSE[: len("blick .")], "grape is vux .", "wrench is nef ."]
    assert sum(one["log_probability"] for one in cited) == pytest.approx(whole.margin, rel=1e-6)
    assert "Statements" in capsys.readouterr().out
