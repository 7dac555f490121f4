"""No page may load anything from elsewhere: a site that is built with such a page is an error."""

from __future__ import annotations

import re
from pathlib import Path

# A link that a reader follows is no load; everything else with an address of another host is one.
_LOADS = (
    re.compile(
        r"<(?!a\b)\w+\b[^>]*?\b(?:src|srcset|href|data|poster|action)=[\"']?\s*((?:https?:)?//[^\s\"'>]+)",
        re.IGNORECASE,
    ),
    re.compile(r"(?:@import\s+|url\(\s*)[\"']?((?:https?:)?//[^\s\"')]+)", re.IGNORECASE),
)


def found(site: Path) -> list[str]:
    """Look through the pages and style sheets of the site, the gallery with it: file and address of each load."""
    return [
        f"{file.relative_to(site)}: {address}"
        for pattern in ("*.html", "*.css", "*.svg")
        for file in sorted(site.rglob(pattern))
        for address in loads(file.read_text(encoding="utf-8"))
    ]


def loads(text: str) -> list[str]:
    """Addresses on other hosts that a browser fetches by itself when it shows the text."""
    return [address for pattern in _LOADS for address in pattern.findall(text)]
