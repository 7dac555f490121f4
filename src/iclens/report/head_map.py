"""A layers × heads map as SVG paths: one path for each shade, so that a cell costs a few bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

N_SHADES = 7
"""Shades of each sign; shade 7 is full colour."""


def shade(value: float, largest: float) -> int:
    """The shade of a value: 0 none, 1 to 7 for support, −1 to −7 for opposition; `largest` and beyond have 7."""
    if not (largest > 0.0) or value != value:
        return 0
    steps = min(N_SHADES, int(abs(value) / largest * N_SHADES + 0.5))
    return steps if value > 0 else -steps


def shade_class(prefix: str, step: int) -> str:
    """The CSS class of a shade, e.g. `gp3` (supports) or `gn3` (opposes); empty for no shade."""
    return "" if step == 0 else f"{prefix}{'p' if step > 0 else 'n'}{abs(step)}"


def largest_magnitude(values: Sequence[float]) -> float:
    """The largest finite magnitude, 0 when there is none."""
    return max((abs(value) for value in values if abs(value) < float("inf")), default=0.0)


@dataclass(frozen=True)
class ShadePath:
    """All cells of one shade: the CSS class and the path's drawing commands."""

    css: str
    commands: str


def shade_paths(rows: Sequence[Sequence[float]], largest: float) -> tuple[ShadePath, ...]:
    """Draws rows of values, one unit square a value, the first row at the top.

    A cell is a horizontal stroke of one unit through the middle of its square; strokes are one unit wide.
    """
    cells: dict[int, list[str]] = {}
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            step = shade(value, largest)
            if step:
                cells.setdefault(step, []).append(f"M{x} {y}.5h1")
    return tuple(ShadePath(shade_class("h", step), "".join(cells[step])) for step in sorted(cells))
