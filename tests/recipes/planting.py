"""Planted tables: for every claim of a recipe one table with the effect and one without it.

A test file of a recipe lists them and sees the verdicts turn:

```python
PLANTED = {"my-recipe": [Planted(CLAIM, with_effect, without_effect, settings), …]}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
```

`test_planted_absence.py` fails for a claim that no test file has planted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from iclens.recipes.contract import RECIPES
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

HOLDS = ("holds", "holds under")


@dataclass(frozen=True)
class Planted:
    """Tables that differ in one effect.

    Attributes:
        claim: the claim that is about the effect.
        present: a table with it.
        absent: the same without it.
        settings: of the recipe; its quick preset's when None.
        also: the other claims that fail without it; no verdict on any further claim may then change. None where the
            other verdicts are not looked at.
    """

    claim: Claim
    present: Callable[[], Table]
    absent: Callable[[], Table]
    settings: Any = None
    also: Sequence[Claim] | None = None


def turning(planted: Mapping[str, Sequence[Planted]]) -> Callable[[str], None]:
    """A test that every verdict turns with its effect, and says so with a number and a tolerance.

    Args:
        planted: by the name of a recipe, what was planted for it.
    """

    @pytest.mark.parametrize("name", planted)
    def test(name: str) -> None:
        recipe = RECIPES[name]
        judged: dict[object, list[Verdict]] = {}

        def verdicts(make: Callable[[], Table], settings: Any) -> list[Verdict]:
            # Many claims share one table with all effects.
            if make not in judged:
                judged[make] = recipe.check(make(), settings)
            return judged[make]

        for entry in planted[name]:
            settings = recipe.quick.settings if entry.settings is None else entry.settings
            present, absent = verdicts(entry.present, settings), verdicts(entry.absent, settings)
            for all_verdicts, outcomes in ((present, HOLDS), (absent, ("does not hold",))):
                found = [verdict for verdict in all_verdicts if verdict.claim == entry.claim.statement]
                assert found, f"no verdict: {entry.claim.statement}"
                assert all(verdict.outcome in outcomes for verdict in found), (entry.claim.statement, found)
                for verdict in found:
                    assert re.search(r"\d", verdict.numbers), f"no number: {verdict}"
                    # A tolerance, also in words, or a law without exceptions.
                    assert re.search(r"\d|\b(twice|half|every)\b", verdict.test), f"no tolerance: {verdict}"
            if entry.also is not None:
                turned = {one.claim for one, other in zip(present, absent, strict=True) if one.holds != other.holds}
                assert turned == {claim.statement for claim in (entry.claim, *entry.also)}, entry

    return test
