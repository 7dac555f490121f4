"""The JSON of a measured case: numbers with the environment they came from."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

from iclens.benchmarks.case import Absent, Context, Listing
from iclens.benchmarks.measuring import CaseResult, Compared, Grown, Result
from iclens.benchmarks.peers import versions
from iclens.recipes.machine import machine
from iclens.work.sealed import sealed

SCHEMA_VERSION = 1


def environment(threads: int) -> dict[str, Any]:
    """Machine, versions, and the load at this moment: tasks that run or wait, this process among them."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {"machine": machine(threads), "versions": versions(), "load": load}


def document(result: CaseResult, context: Context, before: dict[str, Any], command: str) -> dict[str, Any]:
    """Return a case as JSON, with a checksum.

    Args:
        result: the numbers.
        context: how they were measured.
        before: the environment at the start.
        command: that gives them again.
    """
    made = {
        "schema_version": SCHEMA_VERSION,
        "case": result.name,
        "description": result.description,
        "command": command,
        "measured": time.strftime("%Y-%m-%d"),
        "quick": context.quick,
        "long": context.long,
        "pairs": context.pairs,
        "threads": context.threads,
        "device": context.device,
        "environment": before | {"load_after": environment(context.threads)["load"]},
        "ceilings": asdict(context.ceilings),
        "good": result.good,
        "seconds": round(result.seconds, 1),
        "results": [plain(one) for one in result.results],
    }
    return sealed(made)


def plain(result: Result) -> dict[str, Any]:
    """Turn a result into plain data for JSON, with its kind as the first entry."""
    if isinstance(result, Absent):
        return {"kind": "absent", **asdict(result)}
    if isinstance(result, Listing):
        return {"kind": "table", **asdict(result), "verdicts": [asdict(verdict) for verdict in result.verdicts]}
    if isinstance(result, Grown):
        entry = result.entry
        return {
            "kind": "curve",
            "what": entry.what,
            "axis": entry.axis,
            "sizes": list(entry.sizes),
            "remark": entry.remark,
            "lines": {
                name: {"seconds": result.seconds[name], "exponent": asdict(result.exponents[name])}
                for name in entry.lines
            },
        }
    return _plain_comparison(result)


def _plain_comparison(result: Compared) -> dict[str, Any]:
    entry, ratio_ = result.entry, result.speed_up
    floor = None
    if result.gap is not None and entry.floor is not None:
        counted = ("operations", "bytes", "dtype", "formula")
        floor = asdict(result.gap) | {name: getattr(entry.floor, name) for name in counted}
    return {
        "kind": "comparison",
        "what": entry.what,
        "ours": entry.ours.name,
        "other": entry.other.name,
        "agrees": result.agrees,
        "agreements": [{**asdict(one), "holds": one.holds} for one in result.agreements],
        "speed_up": None
        if ratio_ is None
        else {
            "median": ratio_.median,
            "low": ratio_.low,
            "high": ratio_.high,
            "seconds_ours": ratio_.seconds_b,
            "seconds_other": ratio_.seconds_a,
            "pairs": list(ratio_.ratios),
            "repeats_ours": ratio_.repeats_b,
            "repeats_other": ratio_.repeats_a,
        },
        "peak_mib": {"ours": result.peaks[0], "other": result.peaks[1], "share": result.memory_share},
        "floor": floor,
        "targets": [
            {**asdict(judged.target), "value": judged.value, "reached": judged.reached} for judged in result.targets
        ],
    }
