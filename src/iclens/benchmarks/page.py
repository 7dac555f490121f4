"""The page of a folder of measured cases: tables and plots from the JSON alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iclens.benchmarks import wording

Document = Mapping[str, Any]

HEAD = (
    "Outputs were compared before anything was timed. *Times as fast* is their time over ours, the median of",
    "interleaved pairs with the least and the most; below 1 ours is slower. *Above the floor* is our time over what",
    "the operations and bytes that no way spares take at the speed that the machine was measured to reach. Memory is",
    "the peak above what the process held before, in a process of its own. *Error* is the largest difference.",
)
"""How the tables are to be read."""


def page(documents: Sequence[Document], figures: Mapping[str, Sequence[str]]) -> str:
    """Markdown with one section a case.

    Args:
        documents: the JSON of the cases.
        figures: a case's name → the files of its plots, as the page links to them.
    """
    lines = ["# Benchmarks, measured", "", *HEAD, ""]
    for one in documents:
        lines += section(one, [f"![{one['case']}]({figure})" for figure in figures.get(one["case"], ())])
    return "\n".join(lines).rstrip() + "\n"


def section(one: Document, pictures: Sequence[str]) -> list[str]:
    """Return the lines of one case.

    Args:
        one: its JSON.
        pictures: its plots as Markdown.
    """
    machine, versions = one["environment"]["machine"], one["environment"]["versions"]
    load = one["environment"]["load"], one["environment"]["load_after"]
    ceilings = ", ".join(
        f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in one["ceilings"]["operations"].items()
    )
    lines = [
        f"## {one['case']}",
        "",
        one["description"],
        "",
        f"```bash no-run (takes about {max(1, round(one['seconds'] / 60))} minutes)",
        one["command"],
        "```",
        "",
    ]
    if one["quick"]:
        lines += ["**Quick: small sizes, no claims.**", ""]
    for picture in pictures:
        lines += [picture, ""]
    lines += _comparisons([r for r in one["results"] if r["kind"] == "comparison"])
    for result in one["results"]:
        if result["kind"] == "curve":
            lines += _curve(result)
        if result["kind"] == "table":
            lines += _table(result)
    absent = [f"- {r['peer']}: {r['reason']}" for r in one["results"] if r["kind"] == "absent"]
    lines += ["Left out:", "", *absent, ""] if absent else []
    facts = [*(f"{key} {value}" for key, value in machine.items()), *(f"{k} {v}" for k, v in versions.items())]
    lines += [
        f"Measured {one['measured']} on {one['device']}; {', '.join(facts)}. {one['pairs']} pairs; load "
        f"{load[0]} before, {load[1]} after. Ceilings: {ceilings}; {one['ceilings']['bytes'] / 1e9:.1f} GB/s copied.",
        "",
    ]
    return lines


def _comparisons(results: Sequence[Mapping[str, Any]]) -> list[str]:
    if not results:
        return []
    lines = [
        "| what | against | times as fast | ours | theirs | peak ours / theirs | above the floor | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        found = one["speed_up"]
        sides = () if found is None else (found["seconds_ours"], found["seconds_other"])
        cells = [one["what"], one["other"], wording.speed_up(one)]
        cells += [wording.seconds(side) for side in sides] or ["", ""]
        cells += [wording.peaks(one), wording.floor(one), wording.error(one)]
        lines.append("| " + " | ".join(cells) + " |")
    targets = [
        f"- {one['what']}, against {one['other']}: {wording.target(judged)}"
        + (f" ({judged['reason']})" if judged["reason"] else "")
        for one in results
        for judged in one["targets"]
    ]
    floors = dict.fromkeys(one["floor"]["formula"] for one in results if one["floor"] is not None)
    return [
        *lines,
        "",
        *(["Targets:", "", *targets, ""] if targets else []),
        *(["Floors count:", "", *(f"- {formula}" for formula in floors), ""] if floors else []),
    ]


def _curve(result: Mapping[str, Any]) -> list[str]:
    names = list(result["lines"])
    head = [f"**{result['what']}**" + (f": {result['remark']}" if result["remark"] else ""), ""]
    rows = [
        f"| {result['axis']} | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for place, size in enumerate(result["sizes"]):
        cells = [wording.seconds(result["lines"][name]["seconds"][place]) for name in names]
        rows.append(f"| {size:,} | " + " | ".join(cells) + " |")
    cells = [wording.exponent(result["lines"][name]["exponent"]) for name in names]
    rows.append("| exponent | " + " | ".join(cells) + " |")
    return [*head, *rows, ""]


def _table(result: Mapping[str, Any]) -> list[str]:
    if not result["rows"]:
        return []
    columns = list(result["rows"][0])
    rows = ["| " + " | ".join(wording.cell(row[name]) for name in columns) + " |" for row in result["rows"]]
    verdicts = [
        f"- {'holds' if one['holds'] else '**does not hold**'}: {one['claim']} ({one['numbers']})"
        for one in result["verdicts"]
    ]
    return [
        f"**{result['what']}**",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *rows,
        "",
        *([*verdicts, ""] if verdicts else []),
    ]
