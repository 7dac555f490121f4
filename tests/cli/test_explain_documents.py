"""`iclens explain --documents`: what a user types, what is printed, and one clear error for every mistake."""

from __future__ import annotations

import json
import shlex

import pyarrow.parquet as pq
import pytest

from iclens.cli.main import main

DOCUMENTS = [{"id": "farm", "text": "dog is vux .\ncat is vux ."}, {"id": "garden", "text": "apple is nef ."}]
TEMPLATE = r"{text}\n\n{question}"


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in DOCUMENTS), encoding="utf-8")
    return str(path)


def test_documents_and_a_question(documents, tmp_path, capsys):
    out = tmp_path / "found.json"
    asked = ["--documents", documents, "--question", "horse is", "--template", TEMPLATE, "--answers", "vux", "nef"]
    within = ["--within", "lines", "--budget", "4", "--json", str(out), "--html", str(tmp_path / "found.html")]
    assert main(["explain", *asked, *within]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "The answer rests on document farm" in printed
    assert "The answer is grounded in the documents" in printed
    assert "document farm, line 0" in printed
    found = json.loads(out.read_text(encoding="utf-8"))
    (cited,) = found["citations"]
    assert cited["statement"] == "vux"
    assert [one["id"] for one in cited["sources"]] == ["farm"]
    assert found["grounding"]["share"] > 0.6
    assert sum(one["rerun_margin_change"] is not None for one in found["sources"]) == 2
    # The command that is shown gives the same numbers.
    again = tmp_path / "again.json"
    assert main([*shlex.split(found["command"])[1:], "--json", str(again)]) == 0
    assert json.loads(again.read_text(encoding="utf-8"))["sources"] == found["sources"]


def test_a_template_may_be_a_file(documents, tmp_path, capsys):
    template = tmp_path / "template.txt"
    template.write_text("it is so :\n\n{text}\n\n{question}\n", encoding="utf-8")
    out = tmp_path / "found.json"
    asked = ["explain", "--documents", documents, "--question", "horse is"]
    assert main([*asked, "--template", str(template), "--score-instruction", "--json", str(out)]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [one["name"] for one in found["sources"]] == ["instruction", "document farm", "document garden"]
    assert found["prompt"].endswith("\n\nhorse is")
    capsys.readouterr()


def test_the_lines_of_a_text(tmp_path, capsys):
    path = tmp_path / "text.txt"
    path.write_text("dog is vux .\napple is nef .\n", encoding="utf-8")
    out = tmp_path / "found.json"
    asked = ["explain", "--prompt", str(path), "--split", "lines", "--query", "horse is", "--json", str(out)]
    assert main(asked) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [one["name"] for one in found["sources"]] == ["line 0", "line 1"]
    assert found["grounding"] is None
    capsys.readouterr()


def test_batches_hold_documents(documents, tmp_path, capsys):
    batch, out = tmp_path / "batch.jsonl", tmp_path / "out.parquet"
    lines = [
        {"id": "a", "documents": DOCUMENTS, "question": "horse is"},
        {"documents": ["rose is mib ."], "question": "oak is"},
    ]
    batch.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    options = ["--template", TEMPLATE, "--split", "lines", "--workers", "1"]
    assert main(["explain", "--batch", str(batch), "--out", str(out), *options]) == 0
    names = pq.read_table(out)["name"].to_pylist()
    assert names == ["document farm, line 0", "document farm, line 1", "document garden, line 0", "document 0, line 0"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--documents", "DOCS"], "--documents needs --question"),
        (["--question", "a"], "--question needs --documents"),
        (["--documents", "DOCS", "--question", "a", "--prompt", "p.txt"], "--prompt and --documents are both given"),
        (["--documents", "DOCS", "--question", "a", "--query", "b"], "--query is for demonstrations"),
        (["--documents", "DOCS", "--question", "a", "--budget", "-1"], "--budget -1: give a number of passes"),
        (["--documents", "none.jsonl", "--question", "a"], "none.jsonl: there is no such file"),
        (["--documents", "DOCS", "--question", "a", "--template", "none.txt"], "none.txt: there is no such file"),
        (["--batch", "p.jsonl", "--out", "o.parquet", "--question", "a"], "--question is for one prompt"),
    ],
)
def test_options_that_do_not_go_together_get_one_sentence(documents, options, said, capsys):
    assert main(["explain", *(documents if one == "DOCS" else one for one in options)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
