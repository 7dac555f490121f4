"""A finished reproduction: it reads back as it was made, every claim has its verdict, and its colours can be seen."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from tests.recipes.coin import MEAN, SIGN, Coin
from tests.recipes.one_recipe import reproduce

from iclens.errors import UserError
from iclens.recipes.contract import RECIPES
from iclens.recipes.figures import COLOURS, style
from iclens.recipes.reproduction import TABLE, stored
from iclens.work.sealed import sealed


def test_a_reproduction_reads_back(tmp_path, registered):
    made = reproduce(RECIPES["coin"], "quick", tmp_path, command="iclens reproduce coin")
    back = stored(tmp_path)
    assert back.table == made.table
    assert back.settings == made.settings
    assert back.key == made.key
    assert back.machine == made.machine
    assert [verdict.claim for verdict in back.verdicts()] == [MEAN.statement, SIGN.statement]
    assert back.picture("svg") == made.picture("svg")
    assert back.picture("svg", "dark") != back.picture("svg")
    assert back.picture("png").startswith(b"\x89PNG")


def test_a_stored_table_of_other_settings_is_refused(tmp_path, registered):
    reproduce(RECIPES["coin"], "quick", tmp_path)
    document = json.loads((tmp_path / TABLE).read_text())
    document["settings"]["n_flips"] = document["settings"].pop("n_seeds")
    (tmp_path / TABLE).write_text(json.dumps(sealed(document)))
    with pytest.raises(UserError, match="was not made by this version of the recipe"):
        stored(tmp_path)
    assert len(reproduce(RECIPES["coin"], "quick", tmp_path, resume=True).table) == 18
    (tmp_path / TABLE).write_text("{")
    with pytest.raises(UserError, match="Delete it and run the recipe again"):
        stored(tmp_path)
    assert stored(tmp_path / "nothing") is None


def test_every_claim_needs_a_verdict(tmp_path, monkeypatch):
    made = reproduce(Coin(), "quick", tmp_path)
    monkeypatch.setattr(Coin, "check", lambda self, table, settings: [MEAN.judged(True, "2", "= 2")])
    with pytest.raises(ValueError, match="has no verdict on 'No number is negative"):
        made.verdicts()
    monkeypatch.setattr(Coin, "claims", ())
    with pytest.raises(ValueError, match="does not make the claim 'The mean is 2"):
        made.verdicts()


def test_what_needs_a_gpu_says_so_and_keeps_what_a_gpu_made(tmp_path, monkeypatch, registered):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    entry = RECIPES["coin"]
    plain = reproduce(entry, "quick", tmp_path)
    monkeypatch.setattr(Coin, "quick", dataclasses.replace(Coin.quick, needs_gpu="it is large"))
    assert reproduce(entry, "quick", tmp_path).table == plain.table
    (tmp_path / TABLE).unlink()
    made = reproduce(entry, "quick", tmp_path)
    assert [verdict.outcome for verdict in made.verdicts()] == ["cannot be tested here"] * 2
    assert "it is large" in made.verdicts()[0].untested
    assert stored(tmp_path).not_run == made.not_run


def test_colours_differ_in_lightness_from_their_ground():
    def lightness(colour):
        r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (r, g, b)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for mode, colours in COLOURS.items():
        ground = lightness(style(mode)["figure.facecolor"])
        for colour in colours:
            high, low = sorted((lightness(colour), ground), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= (1.9 if mode == "light" else 4.0), (mode, colour)
