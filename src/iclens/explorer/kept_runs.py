"""The runs of a store in memory: read when they are asked for, and again when the store's files have changed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from iclens.sweeps.selection import cell, columns_of, informative, is_setting, record, where
from iclens.sweeps.store import Store
from iclens.training.metric import Metric

_KEPT_CURVES, _KEPT_LISTS = 1_000, 8

Record = dict[str, Any]


@dataclass(frozen=True)
class Chosen:
    """The runs that meet some conditions, and what every page of their list says."""

    records: list[Record]
    columns: list[str]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """All runs of a store, as they were when its files had some state.

    Attributes:
        mark: the state of the files before they were read.
        store: the store.
        records: one flat row a run.
        lists: what was chosen from them, by the conditions.
    """

    mark: tuple[Any, ...]
    store: Store
    records: list[Record]
    lists: dict[tuple[str, ...], Chosen] = field(default_factory=dict)

    def where(self, conditions: str) -> Chosen:
        """The runs that meet all conditions, which commas part.

        Raises:
            UserError: not a condition, or a column that no run has.
        """
        parts = tuple(part.strip() for part in conditions.split(",") if part.strip())
        if parts not in self.lists:
            records = where(self.records, parts)
            columns = informative(records)
            facts = {
                "n_chosen": len(records),
                "n_diverged": sum(one["status"] == "diverged" for one in records),
                "metrics": metric_names(records),
                "axes": [axis_of(records, name) for name in columns if is_setting(name)],
            }
            # Pages of one list are asked for in turn: only the last few lists are worth keeping.
            if len(self.lists) > _KEPT_LISTS:
                self.lists.clear()
            self.lists[parts] = Chosen(records, columns, facts)
        return self.lists[parts]


class KeptRuns:
    """One store, opened when it is needed.

    Args:
        folder: the store; it need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._table: Table | None = None
        # A finished run never changes.
        self._metrics: OrderedDict[str, list[Metric]] = OrderedDict()

    def read(self) -> Table:
        """All runs as they are now.

        Raises:
            UserError: there is no store, or it cannot be read.
        """
        with self._lock:
            mark = _mark(self.folder)
            if self._table is None or self._table.mark != mark:
                store = Store(self.folder, create=False)
                self._table = Table(mark, store, [record(row) for row in store.rows()])
            return self._table

    def metrics(self, store: Store, key: str) -> list[Metric]:
        """The metrics of a run.

        Raises:
            UserError: there is no such run, or it is damaged.
        """
        with self._lock:
            kept = self._metrics.get(key)
        if kept is None:
            kept = store.load(key).metrics()
            with self._lock:
                self._metrics[key] = kept
                while len(self._metrics) > _KEPT_CURVES:
                    self._metrics.popitem(last=False)
        return kept


def _mark(folder: Path) -> tuple[Any, ...]:
    """What changes when runs are added or removed."""
    marks: list[Any] = []
    for path in (folder / "index.sqlite", folder / "index.sqlite-wal", folder / "runs"):
        try:
            found = path.stat()
        except OSError:
            marks.append(None)
        else:
            # Whoever reads makes an empty one of these beside the index.
            marks.append((found.st_mtime_ns, found.st_size) if found.st_size else None)
    return tuple(marks)


def metric_names(records: Sequence[Record]) -> list[str]:
    """The metrics that the runs have, each once, whether of whole prompts or by number of demonstrations."""
    names = [name.removeprefix("final.") for name in columns_of(records) if name.startswith("final.")]
    return list(dict.fromkeys(name.rpartition("@")[0] or name for name in names))


def axis_of(records: Sequence[Record], name: str) -> dict[str, Any]:
    """How many values a setting has, and whether all are numbers."""
    values = {cell(one.get(name)) for one in records}
    numeric = all(is_number(one[name]) for one in records if one.get(name) is not None)
    return {"name": name, "n_values": len(values), "numeric": numeric}


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value can lie on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)
