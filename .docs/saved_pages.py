"""Examples as pages: what a saved page holds lies in a file, and the page is made of it with the script of today."""

from __future__ import annotations

import json
from pathlib import Path

from iclens.explorer.page import saved

FOLDER = "examples"


def pages(docs: Path) -> dict[str, str]:
    """Return the HTML of every example by its place in docs/."""
    return {
        f"{FOLDER}/{file.stem}.html": saved(json.loads(file.read_text(encoding="utf-8")))
        for file in sorted((docs / FOLDER).glob("*.json"))
    }
