"""The schema page and the JSON name the same fields."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from tests.report.sample import make

from iclens.lens.explanation import SCHEMA_VERSION
from iclens.lens.facts import ResponseEffects

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "json-schema.md").read_text(encoding="utf-8")


def documented() -> dict[str, set[str]]:
    """Section name to the fields of its table."""
    sections = re.split(r"^## ", PAGE, flags=re.M)[1:]
    return {part.split("\n")[0].strip("`"): set(re.findall(r"^\| `(\w+)` \|", part, flags=re.M)) for part in sections}


def test_every_field_is_documented_and_no_other():
    response = ResponseEffects("calm", ("calm",), (-0.1,), "log_probability", 0, 1, influence=((0.1,) * 6,))
    document = replace(make(), response=response).to_dict()
    expected = {"Top level": set(document), "knock_out": set(document["group_knock_outs"][0])}
    for name, value in document.items():
        if name in ("group_knock_outs", "notes", "scores", "conclusion"):
            continue
        if isinstance(value, tuple | list):
            expected[name] = set(value[0])
        elif isinstance(value, dict):
            expected[name] = set(value)
    assert documented() == expected
    assert set(document["sources"][0]["knock_out"]) == expected["knock_out"]


def test_the_page_is_of_this_version():
    assert re.search(r"version\s+(\d+)\s+of the schema", PAGE)[1] == str(SCHEMA_VERSION)


def test_links_within_the_page_lead_somewhere():
    headings = {re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) for h in re.findall(r"^## (.+)$", PAGE, flags=re.M)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= headings
