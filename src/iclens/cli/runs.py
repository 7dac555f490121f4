"""`iclens runs …`: the store of finished runs, from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from iclens.cli.output import note, say
from iclens.cli.subcommand import command
from iclens.errors import UserError
from iclens.work.whole_files import check_writable, write_atomically

if TYPE_CHECKING:
    from iclens.sweeps.store import Store
    from iclens.training.metric import Metric

STORE = Path("iclens-runs")
"""Where runs are kept unless another folder is named."""


@command("runs list")
@dataclass(frozen=True)
class RunsList:
    """List finished runs: how each ended, the settings in which they differ, and their last metrics.

    Attributes:
        store: folder of the store.
        where: only runs that meet these conditions, e.g. task.name=linear "seed<4"; also != <= > >=.
        sort: a column to sort by, e.g. seed or final.loss; as they were added by default.
        reverse: the largest first.
        columns: show only these columns.
        limit: the largest number of rows; 0 for all.
        json: print JSON, with the whole configuration of every run.
    """

    store: Path = STORE
    where: tuple[str, ...] = ()
    sort: str | None = None
    reverse: bool = False
    columns: tuple[str, ...] = ()
    limit: int = 0
    json: bool = False

    def run(self) -> int:
        """Print the table and return the exit status."""
        from iclens.sweeps.index_rows import nothing_collected

        with nothing_collected():
            return self._listed()

    def _listed(self) -> int:
        from iclens.sweeps.export import plain_json
        from iclens.sweeps.selection import informative, known_column, ordered, records_of, where

        if self.limit < 0:
            raise UserError(f"--limit {self.limit} must be 0 or more.")
        rows = {row.key: row for row in _opened(self.store).rows()}
        records = records_of(rows.values())
        chosen = where(records, self.where)
        if self.sort is not None:
            if records:
                known_column(records, self.sort)
            chosen = ordered(chosen, self.sort, reverse=self.reverse) if _has(chosen, self.sort) else chosen
        elif self.reverse:
            chosen = chosen[::-1]
        shown = chosen[: self.limit] if self.limit else chosen
        if self.json:
            listed = [
                {
                    "key": row.key,
                    "config": row.config,
                    "result": {**asdict(row.result), "final": dict(row.result.final)},
                }
                for row in (rows[one["key"]] for one in shown)
            ]
            say(plain_json({"schema_version": 1, "runs": listed}))
            return 0
        for name in self.columns:
            if records:
                known_column(records, name)
        names = list(self.columns) or informative(shown)
        if shown:
            _say_table(names, [[one.get(name) for name in names] for one in shown])
        diverged = sum(one["status"] == "diverged" for one in chosen)
        ending = f", {diverged} diverged" if diverged else ""
        of = f" of {len(records)}" if len(chosen) < len(records) else ""
        cut = f" ({len(shown)} shown)" if len(shown) < len(chosen) else ""
        say(f"{_count(len(chosen))}{of}{cut}{ending}")
        return 0


@command("runs show")
@dataclass(frozen=True)
class RunsShow:
    """Show one run: its configuration, how it ended, its last metrics and their curves.

    Attributes:
        key: the run's key, or its first letters if no other run has them.
        store: folder of the store.
    """

    key: Positional[str]
    store: Path = STORE

    def run(self) -> int:
        """Print the run and return the exit status."""
        from iclens.training.config_file import toml_text

        store = _opened(self.store)
        run = store.load(store.find(self.key))
        result = run.result
        say(f"run {run.key}")
        say(f"{result.status} in {result.seconds:.3g} s, last finite step {result.last_finite_step}")
        if result.note:
            say(result.note)
        say(f"{result.ended}, {result.device} on {result.machine}; iclens {result.iclens}, torch {result.torch}")
        say("\n" + toml_text(run.config).rstrip())
        metrics = run.metrics()
        if metrics:
            _say_curves(metrics)
        return 0


@command("runs compare")
@dataclass(frozen=True)
class RunsCompare:
    """Compare runs side by side: the settings in which they differ, and their last metrics.

    Attributes:
        keys: the runs' keys, or their first letters if no other run has them.
        store: folder of the store.
    """

    keys: Positional[tuple[str, ...]]
    store: Path = STORE

    def run(self) -> int:
        """Print the comparison and return the exit status."""
        from iclens.sweeps.selection import columns_of, differing, is_setting, record

        if len(self.keys) < 2:
            raise UserError("compare at least two runs: give the beginnings of their keys.")
        store = _opened(self.store)
        keys = [store.find(prefix) for prefix in self.keys]
        if len(set(keys)) < len(keys):
            raise UserError("the same run is named twice: compare different ones.")
        rows = {row.key: row for row in store.rows()}
        records = [record(rows[key]) for key in keys]
        differ = [name for name in differing(records) if is_setting(name)]
        results = ["status", "seconds", *(name for name in columns_of(records) if name.startswith("final."))]
        table = [[name, *(one.get(name) for one in records)] for name in [*differ, *results]]
        _say_table(["", *keys], table)
        return 0


@command("runs export")
@dataclass(frozen=True)
class RunsExport:
    """Write the table of runs, or all their metrics, as one file.

    Attributes:
        out: the file; its ending says how: .csv, .parquet or .json.
        what: runs, one row a run; or metrics, one row a measured value.
        where: only runs that meet these conditions, as in `runs list`.
        store: folder of the store.
    """

    out: Positional[Path]
    what: Literal["runs", "metrics"] = "runs"
    where: tuple[str, ...] = ()
    store: Path = STORE

    def run(self) -> int:
        """Write the file and return the exit status."""
        from iclens.sweeps.export import export_bytes, format_of
        from iclens.sweeps.selection import record, where

        kind = format_of(self.out)
        check_writable(self.out)
        store = _opened(self.store)
        chosen = where([record(row) for row in store.rows()], self.where)
        content = export_bytes(store, kind, what=self.what, keys=[one["key"] for one in chosen])
        write_atomically(self.out, content)
        say(f"{self.out}: {'metrics of ' if self.what == 'metrics' else ''}{_count(len(chosen))}")
        return 0


@command("runs verify")
@dataclass(frozen=True)
class RunsVerify:
    """Check every file of a store against its checksum, and the index against the runs.

    Exit status 1 if a run is damaged or the index wrong. Leftovers of killed processes are named, but harmless.

    Attributes:
        store: folder of the store.
        repair: set damaged runs aside, so that they can be trained again, and correct the index.
        rebuild: make the index again from the runs first, even one that another iclens seems to have written.
    """

    store: Path = STORE
    repair: bool = False
    rebuild: bool = False

    def run(self) -> int:
        """Print what was found and return the exit status."""
        store = _opened(self.store, rebuild=self.rebuild)
        said = len(store.notes)
        problems = store.verify(repair=self.repair)
        for problem in problems:
            say(f"{problem.kind:<9} {problem.text}")
        for text in store.notes[said:]:
            note(text)
        remaining = store.verify() if self.repair else problems
        serious = [problem for problem in remaining if problem.kind not in ("leftover", "foreign")]
        wrong = len({problem.name for problem in problems if problem.kind not in ("leftover", "foreign")})
        state = "all sound" if not wrong else f"{wrong} not sound" + (", repaired" if not serious else "")
        say(f"{_count(len(store.keys()))} in {self.store}: {state}.")
        return 1 if serious else 0


@command("runs gc")
@dataclass(frozen=True)
class RunsGc:
    """Delete what killed processes left in a store; finished runs are never touched.

    Attributes:
        store: folder of the store.
        damaged: also delete damaged runs that `runs verify --repair` has set aside.
    """

    store: Path = STORE
    damaged: bool = False

    def run(self) -> int:
        """Delete, print what was deleted, and return the exit status."""
        deleted = _opened(self.store).gc(damaged=self.damaged)
        for path in deleted:
            say(f"deleted {path}")
        say(f"{len(deleted)} deleted.")
        return 0


def _opened(path: Path, *, rebuild: bool = False) -> Store:
    from iclens.sweeps.store import Store

    store = Store(path, create=False, rebuild=rebuild)
    for text in store.notes:
        note(text)
    return store


def _has(records: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(name in one for one in records)


def _say_curves(metrics: Sequence[Metric]) -> None:
    from iclens.training.metric import curves, spread

    whole, last = curves(metrics)
    if whole:
        steps = spread(sorted({step for curve in whole.values() for step in curve}))
        say("")
        _say_table(["step", *whole], [[step, *(curve.get(step) for curve in whole.values())] for step in steps])
    if last:
        prefixes = spread(sorted({prefix for curve in last.values() for prefix in curve}))
        say("\nat the last step, by number of demonstrations")
        _say_table(["prefix", *last], [[one, *(curve.get(one) for curve in last.values())] for one in prefixes])


def _say_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    # Plain text: a rich table of ten thousand rows takes seconds.
    columns = []
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        cells = [name, *_texts(column)]
        width = max(map(len, cells))
        right = all(value is None or isinstance(value, int | float) for value in column)
        columns.append([cell.rjust(width) if right else cell.ljust(width) for cell in cells])
    say("\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True)))


def _texts(column: Sequence[Any]) -> list[str]:
    # Of ten thousand cells of one kind none needs a look of its own.
    kinds = set(map(type, column))
    if kinds == {float}:
        return [f"{value:.4g}" for value in column]
    if kinds == {int} or (kinds == {str} and "".join(column).isprintable()):
        return list(map(str, column))
    return list(map(_text, column))


def _text(value: Any) -> str:
    from iclens.sweeps.selection import cell

    # A name with line breaks or control characters must not break the table.
    text = "–" if value is None else cell(value)
    return text if text.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _count(number: int) -> str:
    return f"{number} run" if number == 1 else f"{number} runs"
