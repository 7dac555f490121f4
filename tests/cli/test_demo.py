"""`iclens demo` runs the whole road and leaves its files."""

from __future__ import annotations

import json

from iclens.cli.main import main


def test_demo_writes_the_report_and_says_where(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--out", "made/here"]) == 0
    folder = tmp_path / "made" / "here"
    assert {file.name for file in folder.iterdir()} == {"explain.html", "explain.json", "verify.json"}
    for name in ("explain.json", "verify.json"):
        assert json.loads((folder / name).read_text())
    printed = capsys.readouterr().out
    assert str(folder / "explain.html") in printed
    assert "What to try next" in printed


def test_demo_into_a_file_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "a file has that name" in printed.err
    assert (tmp_path / "file").read_text() == "kept"
