"""A claim, and whether the numbers bear it out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What was found of one claim.

    Attributes:
        claim: one sentence with the tolerance in it.
        holds: whether it holds.
        numbers: what was measured, in words and numbers.
    """

    claim: str
    holds: bool
    numbers: str
