"""An explanation tells the weight updates of its prompt, checks them, and keeps them in its file."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, reader

from iclens.cli.main import main
from iclens.errors import UserError
from iclens.lens import Explanation, explain


def test_shares_sum_to_one_and_the_check_is_among_the_residuals(tmp_path):
    found = explain(reader("gpt2"), PROMPTS[1], patch=True, scores=["influence"])
    patch = found.patch
    assert patch is not None
    assert len(patch.sources) == len(found.sources)
    total = sum(one.share + one.displaced for one in patch.sources) + sum(patch.shares.values())
    assert math.isclose(total, 1.0, abs_tol=1e-9)
    (check,) = [one for one in found.residuals if one.key == "patch"]
    assert check.value < 1e-10
    assert check.holds
    found.save(tmp_path / "found.json")
    assert Explanation.load(tmp_path / "found.json").patch == patch
    assert "Weight updates" in str(found)
    # What is told of a layer is told of the mean.
    for one in patch.sources:
        assert len(one.by_layer) == len(patch.by_layer)
        assert one.size == pytest.approx(sum(one.by_layer) / len(one.by_layer), rel=1e-12)
        assert one.by_layer[one.largest_in] == max(one.by_layer)
    for i, row in enumerate(patch.cosines):
        assert row[i] == pytest.approx(1.0, abs=1e-9)
        assert row[patch.sources[i].alike] == patch.sources[i].cosine == max(row[:i] + row[i + 1 :])
    assert explain(reader("gpt2"), PROMPTS[1], scores=["influence"]).patch is None


@pytest.mark.parametrize("name", ["cosines", "by_layer"])
def test_a_file_whose_updates_are_of_another_number_is_refused(tmp_path, name):
    document = explain(reader("gpt2"), PROMPTS[1], patch=True, scores=["influence"]).to_dict()
    where = document["patch"] if name == "cosines" else document["patch"]["sources"][0]
    where[name] = where[name][:-1]
    (tmp_path / "found.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UserError, match="is no explanation"):
        Explanation.load(tmp_path / "found.json")


@pytest.mark.usefixtures("_single")
def test_the_command_prints_the_table(capsys):
    assert main(["explain", "--patch", "--scores", "influence"]) == 0
    said = capsys.readouterr().out
    assert "Weight updates" in said
    assert "logits of the query alone with patched weights" in said


@pytest.fixture
def _single():
    torch.set_default_dtype(torch.float32)
