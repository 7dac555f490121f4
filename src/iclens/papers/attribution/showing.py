"""Methods side by side: a small table of their means, and LDS against passes."""

from __future__ import annotations

from collections.abc import Mapping

from iclens.papers.attribution.comparing import mean, means_of, passes, units
from iclens.recipes.figures import Figure, log_ticks, new_figure
from iclens.recipes.table import Cell, Table

_TICKS = [digit * 10**power for power in range(5) for digit in (1, 2, 5)]


def summary(rows: Table, heads: Mapping[str, str], key: str) -> Table:
    """The methods by their mean of `key`, the best first, with what they cost and half the width of 95 % intervals.

    Args:
        rows: a row a method and prompt.
        heads: the measures and what their columns are called.
        key: the measure that decides the order; methods without it are left out.
    """
    found, spent = {name: mean(rows, key, name) for name in units(rows, key)}, passes(rows) or means_of(rows, "passes")
    seconds = means_of(rows, "seconds")
    made: list[dict[str, Cell]] = []
    for name in sorted(found, key=lambda name: -found[name].mean):
        cost: dict[str, Cell] = {}
        if name in spent:
            cost = {"passes": round(spent[name], 2), "seconds": round(seconds[name], 2)}
        means = {head: mean(rows, measure, name).short for measure, head in heads.items()}
        made.append({"method": name, "n": found[name].n, **cost, **means})
    return Table(made)


def lds_by_passes(panels: Mapping[str, tuple[Table, str | None]]) -> Figure:
    """LDS against passes, a panel for each title: its rows, and the chosen score.

    That score has its own colour, and so have Lassos and deletions one at a time.
    """
    figure = new_figure(4.6 * max(1, len(panels)), 4.4)
    every = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
    for axes, (title, (rows, chosen)) in zip(every, panels.items(), strict=False):
        costs = passes(rows)
        for name in units(rows, "lds"):
            if name not in costs or name == "random":
                continue
            cost, found = max(costs[name], 0.5), mean(rows, "lds", name)
            rival = name.startswith("lasso") or name == "rerun"
            colour = "C1" if name == chosen else "C2" if rival else "C0"
            axes.errorbar(cost, found.mean, [[found.mean - found.low], [found.high - found.mean]],
                          fmt="o", color=colour, ms=4, elinewidth=0.8)  # fmt: skip
            axes.annotate(name, (cost, found.mean), xytext=(3, 3), textcoords="offset points", fontsize=6)
        axes.set(xlabel="passes", ylabel="LDS", title=title)
        most = max([1.0, *costs.values()])
        log_ticks(axes.xaxis, [tick for tick in _TICKS if tick <= most])
        # Room for the name of the costliest.
        axes.set_xlim(right=1.6 * most)
    return figure
