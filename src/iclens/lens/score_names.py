"""Names of scores, as the table, the page and a comparison show them."""

from __future__ import annotations

from dataclasses import dataclass

from iclens.lens.facts import METHODS

_BY_HEAD = {
    "influence_deletions": "influence",
    "influence_knock_out": "influence",
    "gradient_step": "gradient_step",
    "influence": "influence",
    "shares": "shares",
}
"""Scores whose parts by layer and head are known, with the score that these are of."""


@dataclass(frozen=True)
class ScoreName:
    """Name a score in few words and in full.

    Attributes:
        score: the score, e.g. `"gradient_step"`.
        short: its name in few words, e.g. `"direct effect"`.
        long: its name with the way that it is computed.
        unit: `"nats"`, `"nats per unit of weight"`, or None where a method has a unit of its own.
        map: the score whose parts by layer and head stand beside it, where there are any.
    """

    score: str
    short: str
    long: str
    unit: str | None
    map: str | None

    @classmethod
    def of(cls, score: str) -> ScoreName:
        """The names of a score, one of `METHODS` or of a further method."""
        if score not in METHODS:
            plain = score.replace("_", " ")
            return cls(score, plain, plain, None, None)
        unit = "nats per unit of weight" if score == "influence" else "nats"
        return cls(score, METHODS[score].split(" (")[0], METHODS[score], unit, _BY_HEAD.get(score))
