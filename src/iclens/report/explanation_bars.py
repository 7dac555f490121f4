"""An explanation as a picture: the sources' scores as bars, side by side for every score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from iclens.display_text import one_line
from iclens.lens import VIEWS, Explanation
from iclens.lens.facts import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CHARACTERS = 40


@VIEWS.register("plot")
def plot(explanation: Explanation, axes: Axes | None = None, scores: Sequence[str] | None = None) -> Axes:
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
        # A notebook shows the figures that pyplot knows.
        from matplotlib import pyplot

        height = 1.5 + 0.28 * len(effects) * max(1.0, len(names) / 2)
        _, axes = pyplot.subplots(figsize=(7.0, height), layout="constrained")
    places = np.arange(len(effects), dtype=float)
    thick = 0.8 / len(names)
    for number, name in enumerate(names):
        values = [effect.score(name) or 0.0 for effect in effects]
        axes.barh(places + thick * (number - (len(names) - 1) / 2), values, thick, label=METHODS.get(name, name))
    labels = [
        f"{one_line(effect.shown, _MOST_CHARACTERS)} {one_line(effect.text, _MOST_CHARACTERS)}" for effect in effects
    ]
    axes.set_yticks(places, [label.replace("$", r"\$") for label in labels])
    axes.invert_yaxis()
    axes.axvline(0.0, color="gray", linewidth=0.8)
    answer = one_line(explanation.answer.strip(), _MOST_CHARACTERS).replace("$", r"\$")
    axes.set_xlabel(f"nats of {explanation.quantity}" if set(names) <= set(METHODS) else "each score in its own unit")
    axes.set_title(f"Positive supports {answer!r}", fontsize="medium", pad=24)
    # Above the bars, none of which it may hide.
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(names), fontsize="small", frameon=False)
    return axes
