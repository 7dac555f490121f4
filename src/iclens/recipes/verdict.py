"""A claim, and whether the numbers bear it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Trust = Literal["stated", "derived", "asked"]
"""Whose words a claim is: stated by the paper, derived by us from what it states, or asked by us."""

Outcome = Literal["holds", "holds under", "does not hold", "cannot be tested here"]


@dataclass(frozen=True)
class Verdict:
    """What was found of one claim.

    Attributes:
        claim: one sentence; with the tolerance in it where `test` is empty.
        holds: whether it holds; False when it could not be tested.
        numbers: what was measured, in words and numbers.
        test: what the numbers had to satisfy for the claim to hold, with its tolerance.
        condition: the claim holds under this condition only, e.g. `"tokens are normalised"`; empty when it holds as it
            is stated.
        untested: why it cannot be tested here; empty when it was.
        source: where the claim is made, e.g. `"von Oswald et al. 2023, Proposition 1"`.
        trust: whose words it is; None where that is plain.
    """

    claim: str
    holds: bool
    numbers: str
    test: str = ""
    condition: str = ""
    untested: str = ""
    source: str = ""
    trust: Trust | None = None

    def __post_init__(self) -> None:
        if self.holds and self.untested:
            raise ValueError(f"{self.claim!r} cannot hold and be untested at once")
        if self.condition and not self.holds:
            raise ValueError(f"{self.claim!r} does not hold, so it holds under no condition")

    @property
    def outcome(self) -> Outcome:
        """One of four: "holds", "holds under" the condition, "does not hold", "cannot be tested here"."""
        if self.untested:
            return "cannot be tested here"
        if not self.holds:
            return "does not hold"
        return "holds under" if self.condition else "holds"


@dataclass(frozen=True)
class Claim:
    """What a paper says, and where; it makes the verdicts on it.

    Attributes:
        statement: one sentence, as the source has it or follows from it.
        source: paper and theorem, equation, figure or section.
        trust: `"stated"` when the source says so in these or like words; `"derived"` when we derived it; `"asked"` when
            we want to know whether it is so.
    """

    statement: str
    source: str
    trust: Trust

    def judged(self, holds: bool | np.bool_, numbers: str, test: str, condition: str = "") -> Verdict:
        """Return the verdict of a measurement.

        Args:
            holds: whether the numbers satisfy `test`.
            numbers: what was measured, with intervals.
            test: the condition on the numbers, with its tolerance: it must be able to fail.
            condition: what the claim holds under; ignored when it does not hold.
        """
        # bool: a NumPy truth value would not be written to JSON.
        held = bool(holds)
        return Verdict(
            self.statement, held, numbers, test, condition if held else "", source=self.source, trust=self.trust
        )

    def untested(self, why: str) -> Verdict:
        """Return the verdict "cannot be tested here", with the reason in one sentence."""
        return Verdict(self.statement, False, "", untested=why, source=self.source, trust=self.trust)
