"""Pairs of demonstrations as a picture: who says the same as whom, and who depends on whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iclens.lens import VIEWS, Explanation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NUMBERS = 12
"""Demonstrations up to which every cell shows its number."""


@VIEWS.register("pairs")
def pair_map(explanation: Explanation, axes: Axes | None = None) -> Axes:
    """Draw the change of one demonstration's influence by another's weight: negative blue, positive orange, in nats.

    Args:
        explanation: what was found, with pairs.
        axes: where to draw; axes of a new figure by default.

    Returns:
        the axes.
    """
    assert explanation.pairs is not None
    matrix = np.array(explanation.pairs.matrix)
    n = len(matrix)
    if axes is None:
        from matplotlib import pyplot

        side = 2.5 + 0.35 * min(n, 40)
        _, axes = pyplot.subplots(figsize=(side + 1.0, side), layout="constrained")
    between = np.abs(matrix[~np.eye(n, dtype=bool)])
    most = float(between.max(initial=0.0)) or 1.0
    # A demonstration's own bend is no pair.
    shown = np.where(np.eye(n, dtype=bool), np.nan, matrix)
    image = axes.imshow(shown, cmap="PuOr_r", vmin=-most, vmax=most)
    step = max(1, n // 24)
    labels = [effect.shown for effect in explanation.sources]
    axes.set_xticks(range(0, n, step), labels[::step])
    axes.set_yticks(range(0, n, step), labels[::step])
    if n <= _MOST_NUMBERS:
        for i, j in zip(*np.nonzero(~np.eye(n, dtype=bool)), strict=True):
            axes.text(j, i, f"{matrix[i, j]:+.2f}", ha="center", va="center", fontsize="x-small")
    axes.figure.colorbar(image, ax=axes, label="nats", shrink=0.8)
    axes.set_title("How one's weight changes the other's influence", fontsize="medium")
    return axes
