"""Every verdict of every recipe can fail: without the effect it turns, and it says so with a number and a tolerance."""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path

import pytest

from iclens import intervals
from iclens.recipes.contract import RECIPES
from iclens.recipes.verdict import Verdict

HOLDS = ("holds", "holds under")


@cache
def planted():
    """What the test files of this folder have planted, by recipe."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        if file != Path(__file__) and "\nPLANTED = " in file.read_text(encoding="utf-8"):
            for name, entries in importlib.import_module(f"tests.recipes.{file.stem}").PLANTED.items():
                assert name not in found, f"{name} is planted twice"
                found[name] = entries
    return found


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_claim_has_been_planted(name):
    """A new recipe needs a list `PLANTED` in its test file, as tests/recipes/planting.py says."""
    missing = {claim.statement for claim in RECIPES[name].claims}
    missing -= {entry.claim.statement for entry in planted().get(name, [])}
    assert not missing


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_verdict_turns_when_its_effect_is_absent(name, monkeypatch):
    # What is planted is far larger than what more resamples would tell apart.
    monkeypatch.setattr(intervals, "N_RESAMPLES", 200)
    recipe = RECIPES[name]
    judged: dict[object, list[Verdict]] = {}
    for entry in planted().get(name, []):
        settings = recipe.quick.settings if entry.settings is None else entry.settings
        for make, outcomes in ((entry.present, HOLDS), (entry.absent, ("does not hold",))):
            # Many claims share one table with all effects.
            if make not in judged:
                judged[make] = recipe.check(make(), settings)
            found = [verdict for verdict in judged[make] if verdict.claim == entry.claim.statement]
            assert found
            assert all(verdict.outcome in outcomes for verdict in found), (entry.claim.statement, found)
            for verdict in found:
                assert re.search(r"\d", verdict.numbers), f"no number: {verdict}"
                # A tolerance, also in words, or a law without exceptions.
                assert re.search(r"\d|\b(twice|half|every)\b", verdict.test), f"no tolerance: {verdict}"


def test_what_is_planted_are_recipes():
    assert set(planted()) <= set(RECIPES)
