"""Every claim of every recipe is planted in some test file, which sees its verdict turn."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

import pytest

from iclens.recipes.contract import RECIPES

TESTS = Path(__file__).parents[1]
TEST = "test_every_verdict_turns_when_its_effect_is_absent"


@cache
def planted():
    """What the test files have planted and see turn, by recipe."""
    found = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        if file != Path(__file__) and "\nPLANTED = " in file.read_text(encoding="utf-8"):
            assert f"\n{TEST} = turning(PLANTED)\n" in file.read_text(encoding="utf-8"), f"{file.name} lacks {TEST}"
            module = ".".join(("tests", *file.relative_to(TESTS).with_suffix("").parts))
            for name, entries in importlib.import_module(module).PLANTED.items():
                assert name not in found, f"{name} is planted twice"
                found[name] = entries
    return found


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_claim_has_been_planted(name):
    """A new recipe needs a list `PLANTED` in its test file, as tests/recipes/planting.py says."""
    missing = {claim.statement for claim in RECIPES[name].claims}
    missing -= {entry.claim.statement for entry in planted().get(name, [])}
    assert not missing


def test_what_is_planted_are_recipes():
    assert set(planted()) <= set(RECIPES)
