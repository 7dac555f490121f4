"""A store of runs as the page asks for it: a page of the list, learning curves, and a sweep as small multiples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from iclens.errors import UserError
from iclens.explorer.kept_runs import KeptRuns, Record, is_number
from iclens.explorer.reading import known, text, texts, whole
from iclens.plain_data import finite
from iclens.recipes.best_of_many import over_seeds
from iclens.sweeps.selection import cell, differing, is_setting, known_column, ordered
from iclens.sweeps.store import Store
from iclens.training.metric import curves, spread

MOST_ROWS = 200
"""Rows of the list in one answer."""
MOST_CURVES = 12
MOST_POINTS = 400
"""Points of a learning curve that are sent; a longer one is thinned evenly."""
MOST_PANELS, MOST_COLOURS = 24, 8
MOST_PANEL_RUNS = 600
"""Runs whose curves are read for small multiples; last values come from the index, of any number."""
_PANEL_POINTS = 60

Curve = tuple[list[int], list[float]]


class Runs:
    """One store of runs, read when it is asked for and again when its files have changed.

    Args:
        folder: the store; it need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept = KeptRuns(folder)

    def listing(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """A page of the runs: settings in which they differ, how they ended, and their last metrics.

        Args:
            asked: `where` (conditions separated by commas, as in `iclens runs list`), `sort` (a column), `reverse`,
                `offset` and `limit`.

        Raises:
            UserError: there is no store, or a condition or column that no run knows.
        """
        known(asked, ("where", "sort", "reverse", "offset", "limit"), "{} for the first runs")
        table = self._kept.read()
        chosen = table.where(text(asked, "where") or "")
        sort = text(asked, "sort")
        if sort and table.records:
            known_column(table.records, sort)
        rows = chosen.records
        if sort and any(sort in one for one in rows):
            rows = ordered(rows, sort, reverse=bool(asked.get("reverse")))
        start = whole(asked, "offset") or 0
        limit = MOST_ROWS if (most := whole(asked, "limit")) is None else min(most, MOST_ROWS)
        return {
            "store": str(self.folder),
            "n_runs": len(table.records),
            "offset": start,
            "columns": chosen.columns,
            "rows": [[cell(one.get(name)) for name in chosen.columns] for one in rows[start : start + limit]],
            **chosen.facts,
            "notes": list(dict.fromkeys(table.store.notes)),
        }

    def curves(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Learning curves of some runs in one metric.

        A metric of whole prompts runs over the steps; one that has a value for every number of demonstrations over
        these, at the last step.

        Args:
            asked: `keys` of the runs, and the `metric`.

        Raises:
            UserError: there is no store or no such run, or there are too many.
        """
        known(asked, ("keys", "metric"), '{"keys": […], "metric": …}')
        keys = texts(asked, "keys")
        if len(keys) > MOST_CURVES:
            raise UserError(f"{len(keys)} runs are chosen: at most {MOST_CURVES} curves can be told apart.")
        table, metric = self._kept.read(), text(asked, "metric") or ""
        found = []
        for key in keys:
            try:
                x, y = self._curve(table.store, key, metric)
                found.append({"key": key, **_thinned(x, y), "problem": None})
            except UserError as error:
                found.append({"key": key, "x": [], "y": [], "n_points": 0, "problem": str(error)})
        return {"metric": metric, "x_name": _x_name(table.records, metric), "curves": found}

    def panels(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """A sweep as small multiples: mean and 95 % interval (Student's t) over the runs that share a line's settings.

        A mean is over the runs whose value at its place is finite: `n` of them; the line counts the runs that have
        none at all (`n_left_out`) and those that have some and lack others (`n_partial`).

        Args:
            asked: `metric`; `panel` and `colour`, the settings of which every value has a panel or a line; `x`, a
                numeric setting to plot the last values against, or nothing for curves; `where`.

        Raises:
            UserError: there is no store, an unknown setting, or more panels, lines or runs than can be shown.
        """
        known(asked, ("metric", "panel", "colour", "x", "where"), '{"metric": …}')
        table = self._kept.read()
        chosen = table.where(text(asked, "where") or "").records
        metric, panel, colour, x = (text(asked, name) or "" for name in ("metric", "panel", "colour", "x"))
        for name in filter(None, (panel, colour, x)):
            known_column(table.records, name)
        rows, columns = (_values(chosen, name) for name in (panel, colour))
        for name, values, most, what in (
            (panel, rows, MOST_PANELS, "panels"),
            (colour, columns, MOST_COLOURS, "lines"),
        ):
            if len(values) > most:
                raise UserError(
                    f"{name} has {len(values)} values: at most {most} {what} can be shown. Narrow it by a condition, "
                    "or choose another setting."
                )
        if not x and len(chosen) > MOST_PANEL_RUNS:
            raise UserError(
                f"these are {len(chosen):,} runs: curves are drawn of at most {MOST_PANEL_RUNS}. Narrow them by a "
                "condition, or plot the last values against a setting."
            )
        groups: dict[tuple[str, str], list[Record]] = {}
        for one in chosen:
            groups.setdefault((cell(one.get(panel)), cell(one.get(colour))), []).append(one)
        mixed = {name for group in groups.values() for name in differing(group) if is_setting(name)}
        return {
            "metric": metric,
            "x_name": x or _x_name(table.records, metric),
            "panel": panel,
            "colour": colour,
            "colours": columns,
            "panels": [
                {
                    "value": row,
                    "lines": [
                        {"value": column, **self._line(table.store, groups[row, column], metric, x)}
                        for column in columns
                        if (row, column) in groups
                    ],
                }
                for row in rows
            ],
            "also_over": sorted(mixed - {panel, colour, x, "seed"}),
            "n_runs": len(chosen),
        }

    def _line(self, store: Store, group: Sequence[Record], metric: str, x: str) -> dict[str, Any]:
        at: dict[float, list[float]] = {}
        counts: list[tuple[int, int]] = []
        for one in group:
            try:
                pairs = (
                    [(one.get(x), _last(one, metric))]
                    if x
                    else list(zip(*self._curve(store, one["key"], metric), strict=True))
                )
            except UserError:
                counts.append((0, 0))
                continue
            points = [
                (float(place), value)
                for place, value in pairs
                if is_number(place) and value is not None and math.isfinite(value)
            ]
            counts.append((len(points), len(pairs)))
            for place, value in points:
                at.setdefault(place, []).append(value)
        every = sorted(at)
        places = every if x else spread(every, _PANEL_POINTS)
        found = [over_seeds(torch.tensor(at[place], dtype=torch.float64)) for place in places]
        # Over the values of a setting, runs are spread and not missing.
        n_places = 1 if x else len(every)
        return {
            "x": places,
            "mean": [one.mean for one in found],
            "low": [finite(one.low) for one in found],
            "high": [finite(one.high) for one in found],
            "n": None if x else [len(at[place]) for place in places],
            "n_runs": len(group),
            "n_left_out": sum(n_finite == 0 for n_finite, _ in counts),
            "n_partial": sum(0 < n_finite < max(n_given, n_places) for n_finite, n_given in counts),
        }

    def _curve(self, store: Store, key: str, metric: str) -> Curve:
        whole, last = curves(row for row in self._kept.metrics(store, key) if row.name == metric)
        points = whole.get(metric) or last.get(metric, {})
        places = sorted(points)
        return places, [points[place] for place in places]


def _x_name(records: Sequence[Record], metric: str) -> str:
    return "step" if any(f"final.{metric}" in one for one in records) else "demonstrations"


def _last(one: Record, metric: str) -> float | None:
    if (value := one.get(f"final.{metric}")) is not None:
        return value
    return next((value for name, value in one.items() if name.startswith(f"final.{metric}@")), None)


def _values(records: Sequence[Record], name: str) -> list[str]:
    """The values of a setting in their order, numbers by size; one empty value without a setting."""
    found = {cell(one.get(name)): one.get(name) for one in records}

    def rank(shown: str) -> tuple[bool, float, str]:
        value = found[shown]
        return (False, float(value), shown) if is_number(value) else (True, 0.0, shown)

    return sorted(found, key=rank)


def _thinned(x: list[int], y: list[float]) -> dict[str, Any]:
    places = spread(range(len(x)), MOST_POINTS)
    return {"x": [x[i] for i in places], "y": [finite(y[i]) for i in places], "n_points": len(x)}
