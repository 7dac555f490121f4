"""An explanation as a picture: the sources' scores as bars, side by side for every score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from iclens.display_text import one_line
from iclens.lens import VIEWS, Explanation
from iclens.lens.table import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CHARACTERS = 40


@VIEWS.register("plot")
def plot(explanation: Explanation, axes: Axes | None = None, scores: tuple[str, ...] | None = None) -> Any:
    """Draw one group of bars per source, from the strongest support down; in nats, positive supports the answer.

    Args:
        explanation: what was found.
        axes: where to draw; axes of a new figure by default.
        scores: which of the explanation's scores; all by default. The first orders the sources.

    Returns:
        the axes.

    Raises:
        UserError: a score that was not computed.
    """
    names = explanation.scores if scores is None else scores
    effects = [effect for name in names for effect in explanation.ranked(name)][: len(explanation.sources)]
    if axes is None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.0, 1.2 + 0.28 * len(effects) * max(1.0, len(names) / 2)), layout="constrained")
        axes = figure.subplots()
    places = np.arange(len(effects), dtype=float)
    height = 0.8 / len(names)
    for number, name in enumerate(names):
        values = [effect.score(name) or 0.0 for effect in effects]
        axes.barh(places + height * (number - (len(names) - 1) / 2), values, height, label=METHODS.get(name, name))
    labels = [f"#{effect.index} {one_line(effect.text, _MOST_CHARACTERS)}" for effect in effects]
    axes.set_yticks(places, [label.replace("$", r"\$") for label in labels])
    axes.invert_yaxis()
    axes.axvline(0.0, color="gray", linewidth=0.8)
    answer = one_line(explanation.answer.strip(), _MOST_CHARACTERS).replace("$", r"\$")
    axes.set_xlabel(f"nats of the logit difference; positive supports {answer!r}")
    axes.legend(loc="best")
    return axes
