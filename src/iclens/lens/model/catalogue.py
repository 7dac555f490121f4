"""Which models the lens reads and which it refuses, with what is particular to each, from the registries alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass

from iclens.lens.model.families import FAMILIES, REFUSED
from iclens.registry import Registry

REFUSED_OF_EACH = (
    "models whose attention looks at later tokens or at a second text",
    "an activation without a gate that is not zero at zero",
    "config.output_attentions=True",
)
"""What is refused whatever the family."""


@dataclass(frozen=True)
class Entry:
    """Families that are handled, or refused, alike.

    Attributes:
        model_types: the words in `config.json`.
        remark: what is particular to them and handled, or why they are refused.
    """

    model_types: tuple[str, ...]
    remark: str


def handled() -> list[Entry]:
    """Return the families that the lens reads exactly."""
    return _entries(FAMILIES)


def refused() -> list[Entry]:
    """Families that are refused by name, and why."""
    return _entries(REFUSED)


def as_markdown(entries: Iterable[Entry], heading: str) -> str:
    """Return a table of families and remarks for the docs, with `heading` over the remarks."""
    rows = [f"| {', '.join(f'`{name}`' for name in one.model_types)} | {one.remark} |" for one in entries]
    return "\n".join([f"| `model_type` | {heading} |", "|---|---|", *rows])


def _entries(registry: Registry) -> list[Entry]:
    """The names of a registry, those of one function together, each with the first paragraph of its docstring."""
    names: dict[object, list[str]] = {}
    for name in sorted(registry):
        names.setdefault(registry[name], []).append(name)
    return [Entry(tuple(own), _remark(function)) for function, own in sorted(names.items(), key=lambda one: one[1])]


def _remark(function: object) -> str:
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split()).removesuffix(".")
