"""A recipe, run: its table with everything a page about it needs, on disk and back."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.recipes.contract import RECIPES, Recipe
from iclens.recipes.figures import Mode, style
from iclens.recipes.parts import work_key
from iclens.recipes.settings import recorded
from iclens.recipes.table import Table
from iclens.recipes.verdict import Verdict
from iclens.work.sealed import is_whole, sealed

SCHEMA_VERSION = 1

TABLE = "table.json"


@dataclass(frozen=True, eq=False)
class Reproduction:
    """The outcome of one recipe.

    Attributes:
        recipe: which.
        preset: the name of the preset.
        settings: what it was run with.
        table: all rows; empty when it could not be run here.
        seconds: time spent on the rows, over all runs that it took.
        machine: where the last of them ran.
        finished: when, in UTC.
        command: the command line that made it.
        version: of iclens.
        not_run: why it could not be run here; empty when it was.
        inputs: a digest of what it read besides its settings; empty when that is nothing.
    """

    recipe: Recipe[Any]
    preset: str
    settings: Any
    table: Table
    seconds: float
    machine: dict[str, str]
    finished: str
    command: str
    version: str
    not_run: str = ""
    inputs: str = ""

    @property
    def key(self) -> str:
        """What its rows belong to."""
        return work_key(self.recipe, self.settings, self.version)

    def verdicts(self) -> list[Verdict]:
        """Return the recipe's verdicts, in the order of its claims.

        Raises:
            ValueError: the recipe leaves a claim without a verdict, or judges one that it does not make.
        """
        if self.not_run:
            return [claim.untested(self.not_run) for claim in self.recipe.claims]
        found = self.recipe.check(self.table, self.settings)
        order = [claim.statement for claim in self.recipe.claims]
        for statement in order:
            if not any(verdict.claim == statement for verdict in found):
                raise ValueError(f"recipe {self.recipe.id!r} has no verdict on {statement!r}")
        for verdict in found:
            if verdict.claim not in order:
                raise ValueError(f"recipe {self.recipe.id!r} does not make the claim {verdict.claim!r}")
        return sorted(found, key=lambda verdict: order.index(verdict.claim))

    def picture(self, kind: str, mode: Mode = "light") -> bytes:
        """Return the picture as a file's content.

        Args:
            kind: `"png"` or `"svg"`.
            mode: for a light or a dark page.
        """
        import matplotlib

        with matplotlib.rc_context(style(mode)):
            figure = self.recipe.plot(self.table, self.settings)
            content = io.BytesIO()
            # Without a date the same table gives the same bytes.
            figure.savefig(content, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
        return content.getvalue()

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON with a checksum, the content of `table.json`."""
        return sealed(self.record() | {"columns": self.table.to_columns()})

    def record(self) -> dict[str, Any]:
        """Return all but the table, as JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "recipe": self.recipe.id,
            "title": self.recipe.title,
            "reference": self.recipe.reference,
            "preset": self.preset,
            "key": self.key,
            "settings": recorded(self.settings),
            "command": self.command,
            "seconds": self.seconds,
            "finished": self.finished,
            "iclens": self.version,
            "machine": self.machine,
            "not_run": self.not_run,
        } | ({"inputs": self.inputs} if self.inputs else {})


def verdict_documents(verdicts: list[Verdict]) -> list[dict[str, Any]]:
    """Return the verdicts as JSON, each with its outcome."""
    return [{"outcome": verdict.outcome, **asdict(verdict)} for verdict in verdicts]


def stored(folder: Path) -> Reproduction | None:
    """Return the outcome in a recipe's output folder, or None when there is none.

    Raises:
        UserError: the file is broken, or was made by a revision that measured otherwise or with other settings.
    """
    file = folder / TABLE
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {file}: {error}. Delete it and run the recipe again.") from error
    if not isinstance(document, dict) or not is_whole(document):
        raise UserError(f"{file} is damaged: it is not what was written. Delete it and run the recipe again.")
    try:
        recipe = RECIPES[document["recipe"]]
        made = Reproduction(
            recipe,
            document["preset"],
            _settings(type(recipe.presets[document["preset"]].settings), document["settings"]),
            Table.from_json_columns(document["columns"]),
            document["seconds"],
            document["machine"],
            document["finished"],
            document["command"],
            document["iclens"],
            document["not_run"],
            document.get("inputs", ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} was not made by this version of the recipe: {error}. Run the recipe again.") from error
    if document["key"] != made.key:
        raise UserError(f"{file} was made by another revision of the recipe, which measured otherwise: run it again.")
    return made


def finished(folder: Path, key: str, inputs: str = "") -> Reproduction | None:
    """Return the outcome of the very work that the key names, on these inputs, if it lies in the folder and was run."""
    try:
        kept = stored(folder)
    except UserError:
        # Broken or of other settings: it is as good as not there.
        return None
    if kept is None or kept.key != key or kept.not_run:
        return None
    # Where the inputs are missing nothing else can be made: what was made elsewhere counts.
    return kept if not inputs or kept.inputs == inputs else None


def _settings(kind: Any, values: dict[str, Any]) -> Any:
    known = {entry.name for entry in fields(kind)}
    needed = {entry.name for entry in fields(kind) if not entry.metadata.get("option")}
    if not needed <= set(values) <= known:
        raise ValueError(f"its settings are {', '.join(sorted(values))} and not {', '.join(sorted(known))}")
    return kind(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:
    # JSON has lists only; frozen settings hold tuples.
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
