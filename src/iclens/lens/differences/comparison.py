"""What `iclens.compare` found: plain data, the one source of the table, the JSON and the page.

Signs are as everywhere: positive supports the answer. A change is B less A.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iclens.data_frame import data_frame
from iclens.errors import UserError
from iclens.lens.differences.matching import EDITED, KEPT, MOVED, Match
from iclens.lens.differences.views import VIEWS
from iclens.lens.differences.words import conclude
from iclens.lens.explanation import Explanation
from iclens.lens.facts import ADDITIVE
from iclens.lens.prompt.sources import noun
from iclens.plain_data import finite
from iclens.work.whole_files import write_atomically

SCHEMA_VERSION = 1

_PLAIN = ("fate", "moved", "a", "b", "was", "name", "before", "text")
"""What is written of a source besides its scores."""


@dataclass(frozen=True)
class AnswerPair:
    """What the model gives one answer in either explanation; None where it is not known.

    Attributes:
        text: the candidate answer, or a next token where there are no candidates.
        a, b: its probabilities.
    """

    text: str
    a: float | None
    b: float | None

    @property
    def change(self) -> float | None:
        """B less A."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True)
class ScorePair:
    """A score of one source in either explanation; 0 where the source is not there, None where it is not known."""

    a: float | None
    b: float | None

    @property
    def change(self) -> float | None:
        """B less A."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True)
class SourcePair(Match):
    """A source of either prompt, or the same in both, with its scores for the answer of A.

    Attributes:
        text: its text in B; in A where it is not in B.
        before: its text in A, where that is another one.
        name: what it is called in B; in A where it is not in B.
        was: what it is called in A; None where it is not there.
        scores: by name, those that can be compared.
    """

    text: str
    before: str | None
    name: str
    was: str | None
    scores: dict[str, ScorePair]

    @property
    def mark(self) -> str:
        """Its fate as it is written beside it; empty where it was kept."""
        if self.fate == KEPT:
            return ""
        return f"{EDITED}, {MOVED}" if self.fate == EDITED and self.moved else self.fate

    @property
    def shown(self) -> str:
        """What it is called: `#3 → #1` in A and in B, `#3` where it is the same, `A's #3` or `B's #3` in one alone."""
        if self.a is None or self.b is None:
            return f"{'B' if self.a is None else 'A'}'s {self.name}"
        return self.name if self.was == self.name else f"{self.was} → {self.name}"


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two explanations side by side.

    `print` shows it as a table, `save` writes it, `to_rows` and `to_pandas` give one row per source.

    Attributes:
        a, b: the explanations.
        differs: what is not the same in both, such as `"model"`, `"order"`, `"demonstrations"`, `"query"`.
        answers: what either gives the answers.
        sources: the sources of both, matched; those of B in its order, then those of A alone.
        scores: names of the scores that can be compared, the first of A that is in both first.
        incomparable: one sentence that says why margins and scores are not compared, or None.
        flipped: whether B explains the other one of two candidates: its margin and scores are then given for the answer
            of A, with the other sign, which is exact.
        margin_a, margin_b: the explained number, of A's answer; that of B is of its own answer where the two cannot be
            compared.
        rest: by score, what everything but the sources adds to the explained number, where scores and this sum to it.
        notes: remarks.
    """

    a: Explanation
    b: Explanation
    differs: tuple[str, ...]
    answers: tuple[AnswerPair, ...]
    sources: tuple[SourcePair, ...]
    scores: tuple[str, ...]
    incomparable: str | None
    flipped: bool
    margin_a: float
    margin_b: float
    rest: dict[str, ScorePair]
    notes: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        """What the sources are called."""
        return noun([one.kind for found in (self.a, self.b) for one in found.sources])

    @property
    def exact(self) -> bool:
        """True when every check of both explanations holds."""
        return self.a.exact and self.b.exact

    @property
    def margin_change(self) -> float | None:
        """By how much the explained number is larger in B; None where it cannot be compared."""
        return None if self.incomparable is not None else self.margin_b - self.margin_a

    @property
    def conclusion(self) -> tuple[str, ...]:
        """What the numbers say, in a few sentences."""
        return conclude(self)

    def ranked(self, by: str | None = None) -> tuple[SourcePair, ...]:
        """The sources from the largest change of a score, either way, by the first score or a named one.

        Raises:
            UserError: that score cannot be compared.
        """
        if not self.scores and by is None:
            return self.sources
        name = self.scores[0] if by is None else by
        if name not in self.scores:
            known = ", ".join(self.scores) or "none"
            raise UserError(f"the score {name!r} cannot be compared. Scores of both explanations: {known}.")
        return tuple(sorted(self.sources, key=lambda one: -abs(one.scores[name].change or 0.0)))

    def total(self, score: str) -> ScorePair | None:
        """The sums of a score over all sources, where it may be summed; None where not."""
        if score not in ADDITIVE:
            return None
        pairs = [one.scores[score] for one in self.sources]
        return ScorePair(sum(one.a or 0.0 for one in pairs), sum(one.b or 0.0 for one in pairs))

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers, as `iclens compare --json` writes."""
        return {
            "schema_version": SCHEMA_VERSION,
            "exact": self.exact,
            "a": _about(self.a),
            "b": _about(self.b),
            "differs": list(self.differs),
            "conclusion": list(self.conclusion),
            "quantity": self.a.quantity,
            "margin": {"a": self.margin_a, "b": self.margin_b, "change": self.margin_change},
            "flipped": self.flipped,
            "incomparable": self.incomparable,
            "answers": [dataclasses.asdict(one) | {"change": one.change} for one in self.answers],
            "scores": list(self.scores),
            "sources": [_source(one) for one in self.sources],
            "rest": {name: _pair(one) for name, one in self.rest.items()},
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The same as JSON text; numbers that are not finite are null."""
        return json.dumps(finite(self.to_dict()), indent=1, ensure_ascii=False) + "\n"

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary per source: fate, places, names and texts, and `SCORE_a`, `SCORE_b`, `SCORE_change`."""
        rows = []
        for one in self.sources:
            row: dict[str, Any] = {name: getattr(one, name) for name in _PLAIN}
            for score, pair in one.scores.items():
                row |= {f"{score}_a": pair.a, f"{score}_b": pair.b, f"{score}_change": pair.change}
            rows.append(row)
        return rows

    def to_pandas(self) -> Any:
        """The rows as a data frame.

        Raises:
            UserError: pandas is not installed.
        """
        return data_frame(self.to_rows())

    def to_html(self) -> str:
        """Write the comparison as a page in one file, which opens from a disk and loads nothing."""
        return VIEWS["page"](self)

    def save(self, path: str | Path) -> None:
        """Write a file: `.html` the page, `.json` everything as data.

        Raises:
            UserError: another ending, or the file cannot be written.
        """
        path = Path(path)
        contents: dict[str, Callable[[], str]] = {".html": self.to_html, ".json": self.to_json}
        if path.suffix.lower() not in contents:
            raise UserError(f"{path}: the ending says how to write a comparison. Known: .html, .json.")
        write_atomically(path, contents[path.suffix.lower()]())

    def __str__(self) -> str:
        return VIEWS["text"](self)

    def __repr__(self) -> str:
        what = ", ".join(self.differs) or "nothing"
        return f"Comparison({self.a.answer.strip()!r} and {self.b.answer.strip()!r}; what differs: {what})"

    def _repr_html_(self) -> str:
        return VIEWS["cell"](self)


def _about(found: Explanation) -> dict[str, Any]:
    return {
        "id": found.id,
        "model": dataclasses.asdict(found.model),
        "prompt": found.prompt,
        "answer": found.answer,
        "margin": found.margin,
        "margin_definition": found.margin_definition,
        "exact": found.exact,
        "command": found.command,
    }


def _pair(one: ScorePair) -> dict[str, float | None]:
    return {"a": one.a, "b": one.b, "change": one.change}


def _source(one: SourcePair) -> dict[str, Any]:
    plain = {name: getattr(one, name) for name in _PLAIN}
    return plain | {"scores": {name: _pair(pair) for name, pair in one.scores.items()}}
