"""Figures that are readable in light and dark, by colour-blind readers, and on paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure

    from iclens.recipes.seed_curves import Curve
else:  # so that recipes name it without an import of their own, and matplotlib is read when one draws
    Figure = Any

Mode = Literal["light", "dark"]

COLOURS = {
    "light": ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    "dark": ("#3D9BD9", "#F07B2E", "#2FBF95", "#DE93BD", "#F0B733", "#9AD5F7"),
}
"""Okabe and Ito's colours, lighter on dark: draw with "C0" to "C5", never with a colour of one mode."""

_INKS = {"light": ("#fdfdfb", "#1d2327", "#c9cdcb"), "dark": ("#15181b", "#e4e6e4", "#3d444a")}


def style(mode: Mode = "light") -> dict[str, Any]:
    """Return the rcParams of every figure: `matplotlib.rc_context(style(mode))` around drawing and saving."""
    from cycler import cycler

    paper, ink, line = _INKS[mode]
    return {
        "axes.axisbelow": True,
        "axes.edgecolor": ink,
        "axes.facecolor": paper,
        "axes.grid": True,
        "axes.labelcolor": ink,
        "axes.prop_cycle": cycler(color=COLOURS[mode]),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": "medium",
        "figure.constrained_layout.use": True,
        "figure.facecolor": paper,
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "grid.color": line,
        "grid.linewidth": 0.6,
        "image.cmap": "cividis",
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "savefig.facecolor": paper,
        "svg.fonttype": "path",
        "svg.hashsalt": "iclens",
        "text.color": ink,
        "xtick.color": ink,
        "ytick.color": ink,
    }


def new_figure(width: float | int = 8.0, height: float | int = 4.5) -> Figure:
    """Return an empty figure in inches, tied to no window; draw on `figure.subplots(...)`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def band(axes: Any, curve: Curve, label: str, *, least: float | np.ndarray = -np.inf, **line: Any) -> None:
    """A curve with its interval as a band of the same colour.

    Args:
        axes: matplotlib axes.
        curve: what is drawn.
        label: of the legend.
        least: where the band ends at the latest: on a logarithmic axis there is no place for 0 and below.
        **line: options of `axes.plot`.
    """
    (drawn,) = axes.plot(curve.x, curve.mean, label=label, **line)
    low = np.maximum(curve.low, least)
    axes.fill_between(curve.x, low, curve.high, color=drawn.get_color(), alpha=0.22, linewidth=0)


def log_ticks(axis: Any, values: Sequence[float | int]) -> None:
    """A logarithmic axis that is labelled at these values only, as plain numbers.

    Args:
        axis: `axes.xaxis` or `axes.yaxis`.
        values: where the labels stand.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
