"""The plots of a case, from its JSON: how many times as fast, how much of the memory, and how cost grows."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from iclens.benchmarks import wording
from iclens.recipes.figures import Mode, log_ticks, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = Sequence[Mapping[str, Any]]


def plots(document: Mapping[str, Any], mode: Mode = "light") -> dict[str, bytes]:
    """Return the files of a case's plots: a name without folder → its bytes.

    Args:
        document: the JSON of the case.
        mode: on light or on dark paper.
    """
    import matplotlib

    timed = [one for one in document["results"] if one["kind"] == "comparison" and one["speed_up"] is not None]
    curves = [one for one in document["results"] if one["kind"] == "curve"]
    files = {}
    with matplotlib.rc_context(style(mode)):
        for name, results, draw in (("ratios", timed, _ratios), ("curves", curves, _curves)):
            if results:
                file = io.BytesIO()
                # No date: the same numbers give the same file.
                draw(results).savefig(file, format="svg", dpi=120, metadata={"Date": None})
                files[f"{document['case']}-{name}.svg"] = file.getvalue()
    return files


def _ratios(results: Results) -> Figure:
    shares = [one["peak_mib"]["share"] for one in results]
    with_memory = any(share is not None for share in shares)
    figure = new_figure(10.0, 0.9 + 0.62 * len(results))
    widths = [3, 2] if with_memory else [1]
    panels: Any = figure.subplots(1, len(widths), sharey=True, width_ratios=widths, squeeze=False)[0]
    speed = panels[0]
    places = range(len(results))
    medians = [one["speed_up"]["median"] for one in results]
    speed.axvline(1.0, color="C1", linewidth=1.0, zorder=1)
    for place, one in zip(places, results, strict=True):
        found = one["speed_up"]
        speed.plot([found["low"], found["high"]], [place, place], color="C0", linewidth=5, alpha=0.4)
        speed.plot(found["median"], place, "o", color="C0")
        speed.annotate(wording.number(found["median"]), (found["median"], place), (0, 7), textcoords="offset points",
                       ha="center", fontsize=8)  # fmt: skip
        _mark(speed, one, "speed-up", place)
    speed.set_yticks(list(places), [_label(one) for one in results], fontsize=8)
    speed.invert_yaxis()
    bounds = [judged["bound"] for one in results for judged in one["targets"] if judged["quantity"] == "speed-up"]
    every = [*medians, *bounds, 1.0, *(one["speed_up"][end] for one in results for end in ("low", "high"))]
    log_ticks(speed.xaxis, _round_numbers(min(every), max(every)))
    speed.set_xlim(min(every) / 1.25, max(every) * 1.25)
    speed.set_xlabel("times as fast: median, least and most")
    if with_memory:
        memory = panels[1]
        memory.axvline(1.0, color="C1", linewidth=1.0, zorder=1)
        for place, one, share in zip(places, results, shares, strict=True):
            if share is not None:
                memory.barh(place, share, height=0.5, color="C2")
                memory.annotate(wording.number(share), (share, place), (3, -3), textcoords="offset points", fontsize=8)
                _mark(memory, one, "memory share", place)
        memory.set_xlim(0, 1.15 * max(1.0, *(share for share in shares if share is not None)))
        memory.set_xlabel("our peak memory over theirs")
    return figure


def _mark(axes: Any, result: Mapping[str, Any], quantity: str, place: int) -> None:
    for judged in result["targets"]:
        if judged["quantity"] == quantity:
            axes.plot(judged["bound"], place, "|", color="C1", markersize=16, markeredgewidth=2.5)


def _label(result: Mapping[str, Any]) -> str:
    return "\n".join(textwrap.wrap(f"{result['what']} / {result['other']}", 52))


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten inside the range, or only the powers when there are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 1.5, 2, 3, 5, 7) if last - first <= 1 else (1, 2, 5) if last - first <= 3 else (1,)
    every = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    return [value for value in every if low / 1.25 <= value <= high * 1.25] or [1.0]


def _curves(results: Results) -> Figure:
    columns = min(2, len(results))
    rows = math.ceil(len(results) / columns)
    figure = new_figure(5.0 * columns, 3.4 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, one in zip(grid.flat, results, strict=False):
        for name, line in one["lines"].items():
            label = f"{name}: exponent {line['exponent']['median']:.2f}"
            axes.plot(one["sizes"], [1000 * value for value in line["seconds"]], "o-", label=label, markersize=4)
        milliseconds = [1000 * value for line in one["lines"].values() for value in line["seconds"]]
        log_ticks(axes.yaxis, _round_numbers(min(milliseconds), max(milliseconds)))
        log_ticks(axes.xaxis, one["sizes"][:: math.ceil(len(one["sizes"]) / 6)])
        axes.set_title("\n".join(textwrap.wrap(one["what"], 48)), fontsize=9)
        axes.set_xlabel(one["axis"])
        axes.set_ylabel("ms")
        axes.legend(fontsize=7)
    for axes in list(grid.flat)[len(results) :]:
        axes.set_visible(False)
    return figure
