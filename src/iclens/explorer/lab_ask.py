"""What the Lab view asks: points on a plane, a query, and the settings of what answers it; checked where they enter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iclens.errors import UserError
from iclens.explorer.reading import known, shown, whole
from iclens.training.regressors import MOST_POINTS, VARIANTS

LARGEST_Y = 3.5
"""Labels lie within ± this, the plot's range; drawn ones (fewer than one in a thousand would not) are cut to it."""

FEATURES = ("waves", "line")
"""What ridge, least squares and gradient descent are linear in: the task's own waves, or 1 and x."""

_RANGES: dict[str, tuple[float, float]] = {"noise": (0.0, 1.0), "alpha": (1e-6, 1e3), "rate": (1e-4, 10.0)}
_COUNTS: dict[str, tuple[int, int]] = {
    "n": (1, MOST_POINTS),
    "neighbours": (1, MOST_POINTS),
    "steps": (0, 200),
    "seed": (0, 2**31 - 1),
}
_KEYS = ("points", "query", "attention", "features", *_RANGES, *_COUNTS)


@dataclass(frozen=True)
class LabAsk:
    """One question to a bundled regressor.

    Attributes:
        seed: of the function from which points are drawn.
        n: how many points are drawn, when none are given.
        noise: σ of the noise that drawn points have.
        points: the demonstrations (x, y); None to draw them.
        query: the x that is asked.
        attention: the regressor's attention variant.
        features: what the linear estimators are linear in.
        alpha: strength of ridge.
        neighbours: k of k-NN.
        steps: steps of gradient descent.
        rate: its learning rate.
    """

    seed: int = 43
    n: int = 12
    noise: float = 0.2
    points: tuple[tuple[float, float], ...] | None = None
    query: float = 0.3
    attention: str = "softmax"
    features: str = "waves"
    alpha: float = 0.0816
    neighbours: int = 3
    steps: int = 10
    rate: float = 0.5

    @classmethod
    def read(cls, document: Any) -> LabAsk:
        """Read a question from JSON.

        Raises:
            UserError: a key that is not known, or a value of the wrong kind or out of its range.
        """
        document = known(document, _KEYS, '{"points": [[x, y], …], "query": x}, or {} for a draw')
        given = {key: value for key, value in document.items() if value is not None}
        read: dict[str, Any] = {}
        for name, (low, high) in _RANGES.items():
            if name in given:
                read[name] = _number(name, given[name], low, high)
        for name, (least, most) in _COUNTS.items():
            if name in given:
                read[name] = whole(given, name, least, most)
        for name, names in (("attention", tuple(VARIANTS)), ("features", FEATURES)):
            if name in given:
                read[name] = _one_of(name, given[name], names)
        if "query" in given:
            read["query"] = _number("the query's x", given["query"], -1.0, 1.0)
        if "points" in given:
            read["points"] = _points(given["points"])
        return cls(**read)


def _points(value: Any) -> tuple[tuple[float, float], ...]:
    if not isinstance(value, list):
        raise UserError("'points' must be a list of pairs [x, y].")
    if not 1 <= len(value) <= MOST_POINTS:
        raise UserError(f"there are {len(value)} points: the model reads 1 to {MOST_POINTS}.")
    points = []
    for i, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(f"point {i} is no pair [x, y].")
        x = _number(f"point {i}'s x", pair[0], -1.0, 1.0)
        points.append((x, _number(f"point {i}'s y", pair[1], -LARGEST_Y, LARGEST_Y)))
    return tuple(points)


def _number(name: str, value: Any, low: float, high: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{name} is {shown(value)}: it must be a number from {low:g} to {high:g}.")
    return float(value)


def _one_of(name: str, value: Any, names: tuple[str, ...]) -> str:
    if value not in names:
        raise UserError(f"{name} is {shown(value)}: it must be one of {', '.join(names)}.")
    return value
