"""`iclens demo` runs the whole road and leaves its files."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from importlib.util import find_spec

import pytest

from iclens import bundled
from iclens.cli.main import main
from iclens.errors import UserError
from iclens.lens.model.files import find


@pytest.mark.slow
def test_demo_writes_the_report_and_says_where_and_what_its_prompt_is(tmp_path, monkeypatch, capsys):
    """The reviews where a real model is installed, else the made-up language of the bundled one."""
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--out", "made/here"]) == 0
    folder = tmp_path / "made" / "here"
    assert {file.name for file in folder.iterdir()} == {"explain.html", "explain.json", "verify.json"}
    document, _ = (json.loads((folder / name).read_text()) for name in ("explain.json", "verify.json"))
    printed = capsys.readouterr().out
    assert str(folder / "explain.html") in printed
    # The explanation first, the theorems as one line.
    assert printed.index("In words") < printed.index("The theorems behind it")
    told = printed[printed.index("The theorems behind it") : printed.index("The report:")]
    assert re.search(r"\n\d+ of \d+ hold in float64 on cpu", told)
    assert len(told.splitlines()) <= 4
    assert "What to try next" in printed
    about, prompt = '"blick" is what animals are called', "prompt.txt"
    if find_spec("gguf") is not None:
        with suppress(UserError):
            find("smollm2")
            about, prompt = "look for #5", "reviews.txt"
    assert about in printed
    first = (bundled.path() / prompt).read_text().split("\n\n")[0]
    assert first.strip() in [source["text"].strip() for source in document["sources"]]


def test_demo_into_a_file_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "a file has that name" in printed.err
    assert (tmp_path / "file").read_text() == "kept"
