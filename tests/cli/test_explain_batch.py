"""`iclens explain --batch`: one file in, one Parquet out, a clear error for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.cli.batches import PAIRS, batch, inexact_model, interrupted_after, prompts, rows, text, write

from iclens.cli.main import main
from iclens.lens import COLUMNS, explain, load

SCORES = ("gradient_step", "path", "knock_out", "influence")


def test_rows_hold_what_explain_says(tmp_path: Path) -> None:
    pairs = [{"input": given, "output": output} for given, output in PAIRS[:3]]
    template = "{input} is {output} ."
    lines: list[Any] = [
        text(3),
        [*pairs, {"input": "horse"}],
        {"id": 7, "demonstrations": pairs, "query": "horse", "answers": ["nef", "vux"]},
        {"id": "c", "demonstrations": pairs, "query": "horse", "template": "{input} is {output} .", "answer": "nef"},
        {"prompt": text(2), "instruction": "horse dog"},
    ]
    assert batch(tmp_path, lines, "--template", template, "--dtype", "float64", "--rerun", "--scores", *SCORES) == 0
    found = rows(tmp_path)
    assert [(row["line"], row["id"], row["demonstration"]) for row in found] == [
        *((1, "1", i) for i in range(3)),
        *((2, "2", i) for i in range(3)),
        *((3, "7", i) for i in range(3)),
        *((4, "c", i) for i in range(3)),
        *((5, "5", i) for i in range(2)),
    ]
    import torch

    model = load("bundled", dtype=torch.float64)
    single = [
        explain(model, text(3), scores=SCORES, rerun_text=True),
        explain(model, text(3), scores=SCORES, rerun_text=True),
        explain(model, text(3), answers=["nef", "vux"], scores=SCORES, rerun_text=True),
        explain(model, text(3), answer="nef", scores=SCORES, rerun_text=True),
    ]
    for row in found[:12]:
        whole = single[row["line"] - 1]
        effect = whole.sources[row["demonstration"]]
        for name, expected in {
            "margin": whole.margin,
            "gradient_step": effect.gradient_step,
            "path": effect.path,
            "knock_out": effect.knock_out.margin_change,
            "knock_out_log_probability": effect.knock_out.log_probability_change,
            "rerun": effect.rerun_margin_change,
            "influence_weight": whole.influence_at.weight,
            "next_token_probability": whole.next_tokens[0].probability,
            "first_token_path": next(part.path for part in whole.others if part.name == "first"),
            "other_path": sum(part.path for part in whole.others if part.name != "first"),
        }.items():
            assert row[name] == pytest.approx(expected, rel=1e-10, abs=1e-11), name
        assert (row["answer"], row["text"], row["demonstration_tokens"]) == (whole.answer, effect.text, effect.n_tokens)
        assert (row["exact"], row["error"], row["n_demonstrations"]) == (True, None, 3)
    assert [row["label"] for row in found[:6]] == [None, None, None, "vux", "nef", "vux"]
    assert found[6]["candidates"] == ["nef", "vux"]
    # Without candidates the explained answer is the likeliest next token; one that was asked for need not be.
    assert found[0]["answer"].strip() == found[0]["predicted"].strip() == "vux"
    assert (found[9]["answer"], found[9]["next_token"].strip()) == ("nef", "vux")
    schema = pq.read_schema(tmp_path / "o.parquet")
    assert schema.names == [name for name, _, _ in COLUMNS]
    assert schema.metadata[b"iclens.schema_version"] == b"5"
    assert all(schema.field(name).metadata[b"meaning"].decode() == meaning for name, _, meaning in COLUMNS)


def test_what_is_not_exact_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert batch(tmp_path, prompts(1), "--model", inexact_model(tmp_path), "--scores", "knock_out") == 1
    assert "NOT EXACT: a residual exceeds its tolerance in 1 prompts" in capsys.readouterr().out
    assert not any(row["exact"] for row in rows(tmp_path))


def test_the_scores_of_a_batch_are_those_that_were_asked_for(tmp_path: Path) -> None:
    asked = prompts(4)
    assert batch(tmp_path, asked, "--scores", "lasso_margin", "path") == 0
    found = rows(tmp_path)
    assert {len(row["scores"]) for row in found} == {1}
    for name in ("gradient_step", "knock_out", "knock_out_log_probability", "rerun", "other_gradient_step",
                 "residual_dual_models", "residual_gradient_step", "residual_knock_out"):  # fmt: skip
        assert {row[name] for row in found} == {None}
    single = [explain("bundled", one["prompt"], answers=one.get("answers"), scores=["lasso_margin"]) for one in asked]
    for row in found:
        effect = single[row["line"] - 1].sources[row["demonstration"]]
        assert row["scores"] == [("lasso_margin", pytest.approx(effect.score("lasso_margin"), abs=1e-4))]
        assert row["residual_path"] < row["tolerance"]
    # Without registry methods, which run prompt by prompt.
    assert batch(tmp_path, asked[:1], out="plain.parquet") == 0
    assert {tuple(dict(row["scores"])) for row in rows(tmp_path, "plain.parquet")} == {("influence",)}
    assert {row["influence_weight"] for row in rows(tmp_path, "plain.parquet")} <= {
        0.5,
        0.5 / 16,
        0.5 / 256,
        0.5 / 4096,
    }


BAD = {
    "{": "not JSON",
    "3": "a JSON number",
    "{}": "none of them",
    '{"input": "cat", "output": "vux"}': "this is one pair of input and output, not a whole prompt",
    '{"prompt": "cat is vux .", "messages": []}': 'this has "prompt" and "messages"',
    '{"id": "x"}': "none of them",
    '{"query": "cat"}': "none of them",
    '{"prompt": 3}': '"prompt" is a JSON number',
    '{"messages": "hello"}': '"messages" is a JSON string',
    '{"messages": [{"role": "user", "content": "hello"}]}': "the chat has no demonstration",
    '{"prompt": "horse is"}': "at least one demonstration",
    '{"prompt": "a is b .\\n\\nhorse is", "colour": 1}': 'the key "colour" is not known',
    '{"prompt": "a is b .\\n\\nhorse is", "template": "{input}"}': "a template is for pairs",
    '{"prompt": "a is b .\\n\\nhorse is", "answers": "vux"}': '"answers" is a JSON string, not a list',
    '{"prompt": "a is b .\\n\\nhorse is", "answers": ["vux", "vux"]}': "given twice",
    '{"prompt": "a is b .\\n\\nhorse is", "answers": ["vux", 3]}': 'item 1 of "answers" is a JSON number',
    '{"prompt": "a is b .\\n\\nhorse is", "answer": ["vux"]}': '"answer" is a JSON list',
    '{"prompt": "a is b .\\n\\nhorse is", "answers": ["qqqq"]}': "unknown to the tokenizer",
    '{"prompt": "a = b .\\n\\nhorse is", "answers": ["vux", "vux nef"]}': "starts with the tokens",
    '{"prompt": "a is b .\\n\\nhorse is", "id": true}': '"id" is True',
    '{"prompt": "a is b .\\n\\nhorse is", "id": " "}': "a string that is not empty",
    '{"prompt": "a is b .\\n\\nhorse is", "id": "\\ud800"}': "surrogate",
    '{"prompt": "a is \\udc80 .\\n\\nhorse is"}': "surrogate",
    '{"prompt": "a is b .\\n\\nhorse is", "instruction": 3}': '"instruction" is a JSON number',
    '{"prompt": "a is b .\\n\\nhorse is", "instruction_blocks": "1"}': '"instruction_blocks" is',
    '{"prompt": "a is b .\\n\\nhorse is", "instruction_blocks": 1}': "at least one demonstration",
    '{"demonstrations": [{"input": "cat"}], "query": "dog"}': 'no "output"',
    '{"demonstrations": [{"input": "cat", "output": "vux"}]}': 'there is no "query"',
    '{"prompt": "' + "a is b .\\n\\n" * 60 + 'horse is"}': "context holds 128",
    '{"prompt": "a is b .\\n\\nhorse is", "\\ud800": 1}': r'the key "\ud800" is not known',
    "[" * 100_000: "cannot be read",
}


def test_every_bad_line_is_named_and_nothing_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from iclens.lens import outline
    from iclens.lens.many.lines import read_lines

    file = tmp_path / "p.jsonl"
    good = json.dumps(text(2))
    file.write_bytes(b"\xef\xbb\xbf" + "\n".join([good, "", *BAD]).encode() + b"\r\n" + b'"\xff"\n' + good.encode())
    read = read_lines(file, outline("bundled"))
    assert [line.number for line in read] == [1, *range(3, 3 + len(BAD) + 2)]
    assert [line.error is None for line in read] == [True, *[False] * (len(BAD) + 1), True]
    for line, why in zip(read[1:], [*BAD.values(), "byte 2 (0xff) is not UTF-8"], strict=False):
        assert line.error is not None
        assert line.error.startswith(f"{file}:{line.number}: ")
        assert why in line.error
        assert line.error.count("\n") == 0

    arguments = ["explain", "--batch", str(file), "--out", str(tmp_path / "o.parquet"), "--workers", "1"]
    with monkeypatch.context() as patched:
        computed = interrupted_after(-1, patched, KeyboardInterrupt)
        assert main(arguments) == 2
    assert computed() == 0
    said = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("bad: ") for line in said) == 10
    assert f"... and {len(BAD) + 1 - 10} more" in said
    assert said[-1].startswith(f"error: {len(BAD) + 1} of {len(BAD) + 3} prompts")
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]

    assert main([*arguments, "--skip-bad"]) == 0
    found = rows(tmp_path)
    assert [row["line"] for row in found if row["error"] is None] == [1, 1, len(BAD) + 4, len(BAD) + 4]
    assert [row["error"] for row in found if row["error"]] == [line.error for line in read if line.error]
    assert all(row["margin"] is None for row in found if row["error"])
    assert f"2 prompts explained in 4 rows, {len(BAD) + 1} bad lines skipped" in capsys.readouterr().out


def test_ids_are_unique_and_may_be_any_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["שלום", "a\u202eb", "🙂", "<script>", "\u0000\n"]
    assert batch(tmp_path, [{"id": name, "prompt": text(2)} for name in names]) == 0
    assert [row["id"] for row in rows(tmp_path)][::2] == names
    assert (
        batch(
            tmp_path,
            [{"id": "a", "prompt": text(2)}, text(2), {"id": "a", "prompt": text(3)}, {"id": 2, "prompt": text(2)}],
        )
        == 2
    )
    said = capsys.readouterr().err
    assert "p.jsonl:3: the id 'a' is that of line 1 too" in said
    assert "p.jsonl:4: the id '2' is that of line 2 too" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "o.parquet"], "--out is for many prompts"),
        (["--workers", "2"], "--workers is for many prompts"),
        (["--batch", "p.jsonl"], "--batch needs --out"),
        (["--batch", "p.jsonl", "--out", "nowhere/o.parquet"], "does not exist"),
        (["--batch", "p.jsonl", "--out", "."], "is a folder"),
        (["--batch", "p.jsonl", "--out", "/dev/null"], "must be a file"),
        (["--batch", "nowhere.jsonl", "--out", "o.parquet"], "there is no such file"),
        (["--batch", "empty.jsonl", "--out", "o.parquet"], "is empty"),
        (["--batch", ".", "--out", "o.parquet"], "cannot be read"),
        (["--batch", "p.jsonl", "--out", "o.parquet", "--workers", "0"], "--workers 0"),
        (["--batch", "p.jsonl", "--out", "o.parquet", "--batch-tokens", "0"], "--batch-tokens 0"),
        (["--batch", "p.jsonl", "--out", "o.parquet", "--query", "x"], "--query is for one prompt"),
        (["--batch", "p.jsonl", "--out", "o.parquet", "--json", "x"], "--json is for one prompt"),
        (["--batch", "p.jsonl", "--out", "o.parquet", "--knock-out", "1"], "--knock-out is for one prompt"),
        (["--batch", "p.jsonl", "--out", "o.parquet", "--precise"], "--precise is for one prompt"),
        (["--batch", "p.jsonl", "--out", "o.parquet", "--scores", "lime"], "unknown attribution method 'lime'"),
        (["--batch", "p.jsonl", "--out", "o.parquet", "--scores", "path", "path"], "'path' is named twice"),
        (["--batch", "p.jsonl", "--out", "o.parquet", "--address", "auto"], "give --on ray as well"),
        (["--batch", "p.jsonl", "--out", "o.parquet", "--model", "no/such/folder"], "there is no folder"),
        (["--batch", "p.jsonl", "--out", "taken"], "a file has that name"),
        (["--batch", "p.jsonl", "--out", "o.parquet", "--device", "nonsense"], "could not be loaded"),
    ],
)
def test_a_mistake_is_one_clear_line_before_any_work(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "p.jsonl", prompts(1))
    (tmp_path / "empty.jsonl").write_text("\n \n")
    (tmp_path / "taken.parts").write_text("")
    assert main(["explain", *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said
    assert not (tmp_path / "o.parquet").exists()
