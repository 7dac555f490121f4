"""The page of benchmarks: what `iclens bench --publish docs/bench` left there, put into the site when it is built."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from iclens.benchmarks.case import CASES
from iclens.benchmarks.page import HEAD, section

PLACE = "<!-- what iclens bench measured: docs/bench -->"
FOLDER = "bench"


def filled(markdown: str, docs: Path) -> str:
    """Put the results where a page has the comment `PLACE`."""
    return markdown.replace(PLACE, measured(docs / FOLDER)) if PLACE in markdown else markdown


def measured(folder: Path) -> str:
    """Markdown: targets and verdicts at a glance, and then every case with its tables; a case not measured says so."""
    documents = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    lines = [*HEAD, "", *_glance(documents)]
    for name in sorted({*CASES, *documents}):
        if name in documents:
            lines += section(documents[name], _pictures(folder, name))
        else:
            lines += [f"## {name}", "", f"Not measured yet: `iclens bench {name} --publish docs/{FOLDER}`.", ""]
    # What stands behind a fence's language is for the tests.
    return re.sub(r"^(```\w+) .*$", r"\1", "\n".join(lines), flags=re.MULTILINE)


def _glance(documents: dict[str, Any]) -> list[str]:
    """Every promise in one table: what it says and whether it was kept."""
    from iclens.benchmarks import wording

    rows = []
    for name, one in documents.items():
        for result in one["results"]:
            for judged in result.get("targets", ()):
                sign = {True: "✓", False: "✗", None: "–"}[judged["reached"]]
                what = f"{result['what']}, against {result['other']}"
                rows.append(f"| {sign} | [{name}](#{name}) | {what} | {wording.target(judged)} |")
            for verdict in result.get("verdicts", ()):
                sign = "✓" if verdict["holds"] else "✗"
                rows.append(f"| {sign} | [{name}](#{name}) | {verdict['claim']} | {verdict['numbers']} |")
    if not rows:
        return []
    return ["## At a glance", "", "| | case | promise | measured |", "|---|---|---|---|", *rows, ""]


def _pictures(folder: Path, name: str) -> list[str]:
    pictures = []
    for kind in ("ratios", "curves"):
        if (folder / f"{name}-{kind}.svg").exists():
            light, dark = f"{FOLDER}/{name}-{kind}.svg", f"{FOLDER}/{name}-{kind}-dark.svg"
            pictures.append(
                f"![{name}]({light}#only-light){{ loading=lazy }}![{name}]({dark}#only-dark){{ loading=lazy }}"
            )
    return pictures
