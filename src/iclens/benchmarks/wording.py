"""Numbers as people read them, from the JSON of a case: the same words on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def seconds(value: float | int) -> str:
    """Return a time with three digits and the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size or unit == "µs":
            return f"{number(value / size)} {unit}"
    raise AssertionError


def number(value: float | int) -> str:
    """Three digits, never in powers of ten."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def speed_up(result: Mapping[str, Any]) -> str:
    """`3.21 [3.10, 3.35]`, or why there is none."""
    found = result["speed_up"]
    if found is None:
        return "outputs DISAGREE: not timed"
    return f"{number(found['median'])} [{number(found['low'])}, {number(found['high'])}]"


def error(result: Mapping[str, Any]) -> str:
    """Return the largest difference in proportion to its tolerance, of all that were compared."""
    worst = max(result["agreements"], key=lambda one: one["error"] / (one["tolerance"] or 1.0), default=None)
    return "nothing compared" if worst is None else f"{worst['error']:.0e}"


def peaks(result: Mapping[str, Any]) -> str:
    """`180 / 1,205 MiB (0.15)`, or nothing."""
    found = result["peak_mib"]
    if found["ours"] is None or found["other"] is None:
        return ""
    share = "" if found["share"] is None else f" ({number(found['share'])})"
    return f"{number(found['ours'])} / {number(found['other'])} MiB{share}"


def floor(result: Mapping[str, Any]) -> str:
    """`1.8 × (operations)`, and how far from a routine that does only that."""
    found = result["floor"]
    if found is None:
        return ""
    text = f"{number(found['times'])} × ({found['bound_by']})"
    return text if found["kernel_times"] is None else f"{text}; {number(found['kernel_times'])} × its routine"


def target(judged: Mapping[str, Any]) -> str:
    """`speed-up ≥ 6.4: reached`."""
    sign = "≥" if judged["quantity"] == "speed-up" else "≤"
    said = {True: "reached", False: "MISSED", None: "not measured"}[judged["reached"]]
    unit = " s" if judged["quantity"] == "seconds" else ""
    value = "" if judged["value"] is None else f" ({number(judged['value'])}{unit})"
    return f"{judged['quantity']} {sign} {number(judged['bound'])}{unit}: {said}{value}"


def exponent(found: Mapping[str, Any]) -> str:
    """`1.02 [0.98, 1.05], at the end 1.01`."""
    return (
        f"{found['median']:.2f} [{found['low']:.2f}, {found['high']:.2f}], between the two largest {found['last']:.2f}"
    )


def cell(value: Any) -> str:
    """Return a cell of a table that came from elsewhere."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else str(value)
