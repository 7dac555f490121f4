"""What prompts reach against the number of demonstrations that they keep: real runs, and nothing between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from iclens.intervals import Estimate
from iclens.report.scale import Scale, holding, is_finite
from iclens.selection import Selection
from iclens.selection.comparing import Measured

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 42

_APART = 4.5
"""By how much points over one number of demonstrations stand apart at most, so that none hides another."""


@dataclass(frozen=True)
class Point:
    """One prompt that ran.

    Attributes:
        n_shots: how many demonstrations it keeps.
        said: what it is.
        value: what it reaches.
        x, y, low, high: where it is drawn, and the ends of its interval.
    """

    n_shots: int
    said: str
    value: Estimate
    x: float
    y: float
    low: float
    high: float

    @property
    def is_drawn(self) -> bool:
        """Whether there are numbers: a metric of the caller may give none."""
        return is_finite(self.value)


@dataclass(frozen=True)
class Line:
    """The best prompts of one method, by the number of demonstrations, on the examples that chose."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Chart:
    """One quantity over the number of demonstrations.

    Attributes:
        name: the quantity.
        lines: on the examples that chose, a line for each method.
        apart: on examples that took no part: the prompts that were compared there.
        x_ticks, y_ticks: round numbers and where they lie.
    """

    name: str
    lines: tuple[Line, ...]
    apart: tuple[Point, ...]
    x_ticks: tuple[tuple[float, float], ...]
    y_ticks: tuple[tuple[float, float], ...]


def charts(found: Selection) -> tuple[Chart, ...]:
    """The metric and the log-loss over the number of demonstrations that are kept."""
    return (
        _chart(found, found.value_name, lambda one: one.metric),
        _chart(found, "log-loss", lambda one: one.log_loss),
    )


def _chart(found: Selection, name: str, of: Callable[[Measured], Estimate]) -> Chart:
    lines = [(found.method, found.sizes)]
    if found.rival is not None and found.rival.sizes:
        lines.append((found.rival.method, found.rival.sizes))
    told = [*(of(size.reached) for _, sizes in lines for size in sizes), *(of(one) for _, _, one in _apart(found))]
    counts = [*(size.n_shots for _, sizes in lines for size in sizes), *(n for _, n, _ in _apart(found))]
    x = Scale(0, max(counts), LEFT + 2 * _APART, WIDTH - RIGHT - 2 * _APART)
    beside = len(lines) + len(list(_apart(found)))
    step = min(_APART, (x(1) - x(0)) / beside)
    y = holding([end for one in told for end in (one.low, one.high)], HEIGHT - BOTTOM - 4, TOP + 4)

    def point(n_shots: int, said: str, value: Estimate, turn: int) -> Point:
        at = x(n_shots) + (turn - (beside - 1) / 2) * step
        return Point(n_shots, said, value, round(at, 2), y(value.mean), y(value.low), y(value.high))

    return Chart(
        name,
        tuple(
            Line(
                method,
                tuple(point(size.n_shots, _best_of(size.n_prompts), of(size.reached), turn) for size in sizes),
            )
            for turn, (method, sizes) in enumerate(lines)
        ),
        tuple(point(n, who, of(one), len(lines) + turn) for turn, (who, n, one) in enumerate(_apart(found))),
        tuple((tick, x(tick)) for tick in x.ticks() if tick == round(tick)),
        tuple((tick, y(tick)) for tick in y.ticks(4)),
    )


def _apart(found: Selection) -> Iterator[tuple[str, int, Measured]]:
    """The prompts that ran on examples that took no part."""
    yield "start", len(found.start), found.held_out.before
    yield "chosen", len(found.indices), found.held_out.after
    if found.rival is not None:
        yield f"by {found.rival.method}", len(found.rival.indices), found.rival.held_out.before


def _best_of(n_prompts: int) -> str:
    return "the only prompt" if n_prompts == 1 else f"the best of {n_prompts} prompts"
