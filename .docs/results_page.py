"""The page of results: claims and verdicts of the gallery, read from its own files when the site is built."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from iclens.report.gallery import MARKS, RECORD, TRUSTS
from iclens.work.progress import duration

PLACE = "<!-- claims and verdicts of docs/gallery -->"
FOLDER = "gallery"
SMALL = "gallery-quick"
"""Recipes whose `paper` preset could not be run, with the `quick` one."""

_GROUPS = {
    "Real models": (
        "absorb-real",
        "attribution-real",
        "context-real",
        "equivalence-real",
        "heads-real",
        "modified-real",
        "patch-real",
        "select-real",
    ),
    "A model whose truth is known": ("attribution",),
    "Ren & Liu 2024": ("ren-liu", "augmentation", "beyond", "softmax"),
    "Yang et al. 2024": ("yang",),
    "Related papers": ("",),
}
"""Headings of the table, with the beginnings of the recipes' ids; the first that fits counts."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|~^$>])")


def filled(markdown: str, docs: Path) -> str:
    """Put the results where a page has the comment `PLACE`."""
    return markdown.replace(PLACE, results(docs)) if PLACE in markdown else markdown


def results(docs: Path) -> str:
    """Markdown: how many claims have which outcome, recipe by recipe, and then every claim with its numbers."""
    gallery = docs / FOLDER
    entries = sorted((_entry(record) for record in gallery.glob(f"*/{RECORD}")), key=lambda entry: entry["recipe"])
    if not entries:
        return (
            '!!! note "The gallery is empty"\n\n'
            f"    No recipe has been run into `docs/{FOLDER}`. Fill it, and build the site again:\n\n"
            f"        iclens reproduce --all --preset paper --publish docs/{FOLDER}\n"
        )
    verdicts = [verdict for entry in entries for verdict in entry["verdicts"]]
    parts = [
        "## At a glance",
        f"{len(entries)} recipes, {len(verdicts)} claims. [All of them as one gallery]({FOLDER}/index.html).",
        _glance(entries),
        *(_section(entry, docs) for entry in entries),
    ]
    return "\n\n".join(parts)


def _entry(record: Path) -> dict[str, Any]:
    document = json.loads(record.read_text(encoding="utf-8"))
    document["verdicts"] = json.loads(record.with_name("verdicts.json").read_text(encoding="utf-8"))
    document["picture"] = record.with_name("figure.svg").exists()
    return document


def _glance(entries: Sequence[Mapping[str, Any]]) -> str:
    used = [outcome for outcome in MARKS if any(_count(entry, outcome) for entry in entries)]
    titles = [f"{MARKS[outcome][0]} {outcome.replace('under', 'under …')}" for outcome in used]
    lines = [f"| | {' | '.join(titles)} |", "|---|" + ":-:|" * len(used)]
    for group in _GROUPS:
        members = [entry for entry in entries if _group(entry) == group]
        lines += [f"| **{_text(group)}** |{' |' * len(used)}"] if members else []
        for entry in members:
            counts = " | ".join(str(_count(entry, outcome) or "") for outcome in used)
            lines.append(f"| [{_text(entry['title'])}](#{entry['recipe']})<br>{_text(entry['reference'])} | {counts} |")
    totals = " | ".join(str(sum(_count(entry, outcome) for entry in entries)) for outcome in used)
    table = "\n".join([*lines, f"| all | {totals} |"])
    return f'<div class="glance" markdown>\n\n{table}\n\n</div>'


def _group(entry: Mapping[str, Any]) -> str:
    return next(group for group, starts in _GROUPS.items() if entry["recipe"].startswith(starts))


def _count(entry: Mapping[str, Any], outcome: str) -> int:
    return sum(verdict["outcome"] == outcome for verdict in entry["verdicts"])


def _section(entry: Mapping[str, Any], docs: Path) -> str:
    folder = f"{FOLDER}/{entry['recipe']}"
    parts = [
        f"## {_text(entry['title'])} {{ #{entry['recipe']} }}",
        f"{_text(entry['reference'])}. Preset `{entry['preset']}`, {duration(entry['seconds'])}: `{entry['command']}`. "
        f"[Settings, numbers and data]({folder}/index.html).",
        '<div class="verdicts" markdown>',
        "\n".join(["| verdict | claim | measured |", "|---|---|---|", *map(_row, entry["verdicts"])]),
        "</div>",
    ]
    if entry["picture"]:
        parts.append(_picture(entry, folder))
    small = f"{SMALL}/{entry['recipe']}"
    if (docs / small / RECORD).exists():
        made = _entry(docs / small / RECORD)
        parts.append(
            f"At a size that a CPU trains, which is no verdict on the claims at theirs: `{made['command']}`. "
            f"[Settings, numbers and data]({small}/index.html)."
        )
        if made["picture"]:
            parts.append(_picture(entry, small))
    return "\n\n".join(parts)


def _picture(entry: Mapping[str, Any], folder: str) -> str:
    alt = _text(entry["title"])
    return (
        f"[![{alt}]({folder}/figure.svg#only-light){{ loading=lazy }}"
        f"![{alt}]({folder}/figure-dark.svg#only-dark){{ loading=lazy }}]({folder}/index.html)"
    )


def _row(verdict: Mapping[str, Any]) -> str:
    sign, style = MARKS[verdict["outcome"]]
    outcome = _text(verdict["outcome"])
    if verdict["condition"]:
        outcome = f"holds under: {_text(verdict['condition'])}"
    source = f"{_text(verdict['source'])} ({TRUSTS[verdict['trust']]})"
    measured = _text(verdict["untested"] or verdict["numbers"])
    if verdict["test"]:
        measured += f'<br><span class="small">Holds if {_text(verdict["test"])}.</span>'
    return (
        f'| <span class="outcome {style}">{sign} {outcome}</span> '
        f'| {_text(verdict["claim"])}<br><span class="small">{source}</span> | {measured} |'
    )


def _text(text: str) -> str:
    """Text that means nothing to Markdown or HTML."""
    one_line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _SPECIAL.sub(r"\\\1", one_line)
