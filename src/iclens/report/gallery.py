"""The gallery of reproductions: an index and a page a recipe, formatted from their documents, nothing computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.report.pages import render

RECORD = "record.json"
"""In a published gallery, what `table.json` says but for the table."""

MARKS = {
    "holds": ("✓", "holds"),
    "holds under": ("✓", "conditional"),
    "does not hold": ("✗", "fails"),
    "cannot be tested here": ("–", "untested"),
}
"""The sign and the style of each outcome; the words stand beside them."""

TRUSTS = {"stated": "stated by the paper", "derived": "derived by us", "asked": "our question"}
"""Whose words a claim is."""

_TOTALS = {"stated": "Stated by a paper", "derived": "Derived by us from a paper", "asked": "Our questions"}

COUNTED = {
    "holds": ("holds", "hold"),
    "holds under": ("holds under a condition", "hold under a condition"),
    "does not hold": ("does not hold", "do not hold"),
    "cannot be tested here": ("cannot be tested here", "cannot be tested here"),
}
"""Each outcome after the number of claims that have it: one, several."""


@dataclass(frozen=True)
class Entry:
    """What the page of one recipe shows.

    Attributes:
        id: the recipe, and the name of its folder beside the index.
        title: one line.
        reference: the paper and its figure or theorem.
        description: what was done; empty lines part paragraphs.
        preset: which preset.
        verdicts: mappings with `claim`, `source`, `trust`, `outcome`, `condition`, `numbers`, `test`, `untested`.
        settings: mappings with `name`, `value`, `origin` (`"stated"` by the paper or `"chosen"` by us) and `note`.
        command: the command line.
        seconds: how long the measurements took.
        finished: when.
        machine: where, as names and values.
        n_rows: rows of the table.
        picture: whether there is one.
        data: whether the tables and the picture as PNG lie beside the page.
    """

    id: str
    title: str
    reference: str
    description: str
    preset: str
    verdicts: Sequence[Mapping[str, Any]]
    settings: Sequence[Mapping[str, Any]]
    command: str
    seconds: float
    finished: str
    machine: Mapping[str, str]
    n_rows: int
    picture: bool
    data: bool = True

    @property
    def tally(self) -> tuple[tuple[str, int], ...]:
        """How many claims have each outcome, in the order of `MARKS`."""
        return _tally(self.verdicts)


def published(folder: Path) -> list[Entry]:
    """What a published gallery holds, by the records of its recipes, for its index.

    Raises:
        UserError: a record or its verdicts cannot be read.
    """
    found = []
    for file in sorted(folder.glob(f"*/{RECORD}")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            verdicts = json.loads((file.parent / "verdicts.json").read_text(encoding="utf-8"))
            told = {name: record[name] for name in ("title", "reference", "preset", "command", "seconds", "finished")}
            own: dict[str, Any] = {"description": "", "settings": (), "n_rows": 0, "data": False}
            found.append(Entry(id=record["recipe"], verdicts=verdicts, machine=record["machine"],
                               picture=not record["not_run"], **told, **own))  # fmt: skip
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{file.parent} is not published whole: {error!r}; publish it again.") from error
    return found


def render_entry(entry: Entry) -> str:
    """The page of one recipe, for `<id>/index.html`; its pictures and tables lie beside it."""
    return _render("gallery_entry.html", entry=entry)


def render_index(entries: Sequence[Entry], version: str) -> str:
    """The page that leads to all of them, for `index.html`.

    Args:
        entries: what to show, in this order.
        version: of iclens.
    """
    verdicts = [verdict for entry in entries for verdict in entry.verdicts]
    totals = [
        (words, _tally([verdict for verdict in verdicts if verdict["trust"] == trust]))
        for trust, words in _TOTALS.items()
    ]
    return _render(
        "gallery_index.html",
        entries=entries,
        totals=[(words, counts) for words, counts in totals if counts],
        version=version,
    )


def _tally(verdicts: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, int], ...]:
    outcomes = [verdict["outcome"] for verdict in verdicts]
    return tuple((outcome, outcomes.count(outcome)) for outcome in MARKS if outcome in outcomes)


def _render(template: str, **values: Any) -> str:
    values |= {"marks": MARKS, "counted": COUNTED, "trusts": TRUSTS}
    return render(template, ("page.css", "verdicts.css", "gallery.css"), pictures="'self' file:", **values)
