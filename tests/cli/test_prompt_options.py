"""How a prompt is written, on the command line: template arguments, separators, chats, one by one and in batches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from iclens import bundled
from iclens.cli.main import main
from iclens.cli.prompt_options import arguments, unescaped
from iclens.errors import UserError

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ m.content }}\n{% endfor %}{% if shout is true %}it {% endif %}"
)
SYSTEM = {"role": "system", "content": "it is vux ."}
CHAT = [{"role": "user", "content": "cat is"}, {"role": "assistant", "content": "vux ."},
        {"role": "user", "content": "horse is"}]  # fmt: skip


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "chatting"
    shutil.copytree(bundled.path(), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE}), encoding="utf-8")
    return str(folder)


def test_values_are_json_or_their_own_text():
    pairs = ["a=false", "b=False", "c=3", "d=x y", 'e="3"', "f=", "g=None", "h=[1]", "i=a=b"]
    assert arguments(pairs) == {
        "a": False, "b": False, "c": 3, "d": "x y", "e": "3", "f": "", "g": None, "h": [1], "i": "a=b",
    }  # fmt: skip
    for bad in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(UserError, match="template-args"):
            arguments(bad)
    assert unescaped(r"a\n\tb") == "a\n\tb"
    assert unescaped(None) is None


def explained(tmp_path, prompt, *options):
    path = tmp_path / ("prompt.txt" if isinstance(prompt, str) else "prompt.json")
    path.write_text(prompt if isinstance(prompt, str) else json.dumps(prompt), encoding="utf-8")
    out = tmp_path / "found.json"
    status = main(["explain", "--prompt", str(path), "--json", str(out), "--scores", "gradient_step", *options])
    return status, json.loads(out.read_text(encoding="utf-8")) if status == 0 else None


def test_one_prompt(chatting, tmp_path, capsys):
    lines = "cat is vux .\nplum is nef .\nhorse is"
    _, found = explained(tmp_path, lines, "--separator", r"\n", "--answers", "vux", "nef")
    assert [one["text"] for one in found["sources"]] == ["cat is vux .", "plum is nef ."]
    assert r"--separator '\n'" in found["command"]
    _, found = explained(tmp_path, CHAT, "--model", chatting, "--template-args", "shout=true")
    assert found["prompt"].endswith("horse is\nit")
    assert "--template-args shout=true" in found["command"]
    assert explained(tmp_path, [SYSTEM, *CHAT], "--model", chatting)[0] == 2
    assert "no system role" in capsys.readouterr().err
    _, found = explained(tmp_path, [SYSTEM, *CHAT], "--model", chatting, "--system-in-user")
    assert found["prompt"].startswith("it is vux .\n\ncat is\nvux .\nhorse is")
    assert "--system-in-user" in found["command"]


def test_many_prompts(chatting, tmp_path: Path):
    lines = [
        {"id": "chat", "messages": [SYSTEM, *CHAT]},
        {"id": "own", "messages": CHAT, "template_args": {"shout": False}, "system_in_user": False},
        {"id": "one", "messages": [{"role": "user", "content": "cat is vux .;plum is nef .;horse is"}]},
        {"id": "text", "prompt": "cat is vux .;plum is nef .;horse is"},
        {"id": "blank", "prompt": "cat is vux .\n#\nhorse is", "separator": "#"},
    ]
    file, out = tmp_path / "p.jsonl", tmp_path / "o.parquet"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    options = ["--separator", ";", "--system-in-user", "--template-args", "shout=true", "--workers", "1"]
    assert main(["explain", "--batch", str(file), "--out", str(out), "--model", chatting, *options]) == 0
    rows = pq.read_table(out).to_pylist()
    assert [row["id"] for row in rows] == ["chat", "own", "one", "one", "text", "text", "blank"]
    assert [row["text"] for row in rows if row["id"] in ("one", "text")] == ["cat is vux .", "plum is nef ."] * 2
    assert all(row["exact"] for row in rows)


def test_a_tokenizer_that_pads_on_the_left_gives_the_same_numbers(chatting, tmp_path):
    left = tmp_path / "left"
    shutil.copytree(chatting, left)
    settings = json.loads((left / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"padding_side": "left", "truncation_side": "left"}
    (left / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    texts = ["cat is vux .\n\nhorse is", "cat is vux .\n\nplum is nef .\n\ndog is vux .\n\nhorse is"]
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
    found = []
    for name in (chatting, str(left)):
        out = tmp_path / "o.parquet"
        assert (
            main(["explain", "--batch", str(file), "--out", str(out), "--model", name, "--rerun", "--workers", "1"])
            == 0
        )
        found.append(pq.read_table(out).to_pylist())
        out.unlink()
    assert found[0] == found[1]
