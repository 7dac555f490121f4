"""Progress of long work, in words."""

from __future__ import annotations

import math


def duration(seconds: float | int) -> str:
    """Format a time to be read, e.g. `0.4 s`, `12 s`, `3 min`, `2 h 5 min`."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
