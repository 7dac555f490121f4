"""Planted tables: for every claim of a recipe one table with the effect and one without it.

A test file of a recipe lists them:

```python
PLANTED = {"my-recipe": [Planted(CLAIM, with_effect, without_effect, settings), …]}
```

`test_planted_absence.py` sees the verdicts turn, and fails for a claim that no test file has planted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim


@dataclass(frozen=True)
class Planted:
    """Tables that differ in one effect.

    Attributes:
        claim: the claim that is about the effect.
        present: a table with it.
        absent: the same without it.
        settings: of the recipe; its quick preset's when None.
    """

    claim: Claim
    present: Callable[[], Table]
    absent: Callable[[], Table]
    settings: Any = None
