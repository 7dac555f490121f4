"""The coin among the recipes."""

from __future__ import annotations

import pytest
from tests.recipes.coin import Coin

from iclens.recipes.contract import RECIPES


@pytest.fixture
def registered():
    """The coin among the recipes, for one test."""
    with RECIPES.restored():
        RECIPES.register("coin")(Coin())
        yield
