"""Numbers of heads as pictures: a map over layers and heads for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from iclens.errors import UserError
from iclens.lens import HEAD_COLUMNS, HeadStatistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("relative_disagreement", "first_weight", "largest_change", "end_distance")

_LABELS = {
    "relative_disagreement": "values disagree, 0 to 1",
    "first_weight": "weight on the first token",
    "n_effective": "tokens averaged",
    "largest_change": "leaving one token out, relative",
    "end_distance": "to the end, relative",
    "one_step_distance": "to the flow at one step, relative",
    "condition": "condition of the keys' kernel",
    "nearest_time": "nearest t (brightest: the end)",
}
_LOGARITHMIC = ("largest_change", "end_distance", "condition", "n_effective", "nearest_time", "disagreement")
_LEAST = 1e-3


def head_maps(
    statistics: HeadStatistics | Mapping[str, Any], names: Sequence[str] = SHOWN, figure: Figure | None = None
) -> Figure:
    """Draw maps over layers (down) and heads (across), side by side.

    Weights and relative disagreement are drawn from 0 to 1; distances, counts and times on a logarithmic scale.

    Args:
        statistics: of `lens.head_statistics()`, or arrays (n_layers, n_heads) by name.
        names: what to draw, of `iclens.lens.HEAD_COLUMNS`.
        figure: where to draw; a new figure by default.

    Raises:
        UserError: there is no such number, or none to draw.
    """
    for name in names:
        if name not in HEAD_COLUMNS:
            raise UserError(f"heads have no number {name!r}: there are {', '.join(HEAD_COLUMNS)}.")
    if not names:
        raise UserError("there is nothing to draw: name at least one number of the heads, e.g. first_weight.")
    maps = {name: np.asarray(statistics[name]).astype(float) for name in names}
    n_layers, n_heads = next(iter(maps.values())).shape
    if figure is None:
        from matplotlib import pyplot

        width = len(maps) * (1.6 + 0.16 * min(n_heads, 40))
        figure = pyplot.figure(figsize=(width, 1.5 + 0.16 * min(n_layers, 60)), layout="constrained")
    axes = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        _draw(ax, name, values)
        ax.set(title=_LABELS.get(name, name.replace("_", " ")), xlabel="head")
        ax.set_xticks(range(0, n_heads, max(1, n_heads // 8)))
    axes[0].set_yticks(range(0, n_layers, max(1, n_layers // 15)))
    axes[0].set_ylabel("layer")
    return figure


def _draw(ax: Any, name: str, values: np.ndarray) -> None:
    from matplotlib.colors import LogNorm

    scale: dict[str, Any] = {"vmin": 0.0, "vmax": 1.0}
    if name in _LOGARITHMIC:
        # Infinite is beyond every number, not missing.
        known = values[np.isfinite(values) & (values > 0)]
        top = float(known.max(initial=_LEAST * 10))
        values = np.where(np.isposinf(values), top, values)
        least = max(float(known.min(initial=top / 10)), _LEAST) if name != "disagreement" else known.min(initial=top)
        scale = {"norm": LogNorm(vmin=min(least, top / 2), vmax=top, clip=True)}
    elif np.nanmax(values, initial=0.0) > 1:
        scale = {"vmin": 0.0}
    image = ax.imshow(values, aspect="auto", interpolation="nearest", **scale)
    ax.grid(visible=False)
    ax.figure.colorbar(image, ax=ax, shrink=0.8)
