"""The coin among the recipes."""

from __future__ import annotations

import pytest
from tests.recipes.coin import Coin

from iclens.recipes.contract import RECIPES


@pytest.fixture
def registered(monkeypatch):
    """The coin among the recipes, for one test."""
    list(RECIPES)
    monkeypatch.setattr(RECIPES, "_entries", {**RECIPES._entries, "coin": Coin()})
