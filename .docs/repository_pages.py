"""Pages that lie at the root of the repository, and what the first lines of fences say that is meant for the tests."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PAGES = {"CONTRIBUTING.md": "docs/contributing/index.md", "CHANGELOG.md": "docs/changelog.md"}
"""Where the site has them, as if they lay in docs/."""

_FENCE = re.compile(r"^(?P<start> *`{3,}\w+)(?P<rest>[^\n`]*)$", re.MULTILINE)
_TITLE = re.compile(r'\btitle="[^"]*"')
_LINK = re.compile(r"\]\((?!\w+:|#)(?P<target>[^)\s#]+)")


def pages() -> dict[str, str]:
    """Return the Markdown of the pages by their places in docs/."""
    texts = {source: (ROOT / source).read_text(encoding="utf-8") for source in PAGES}
    return {place.removeprefix("docs/"): moved(texts[source], source, place) for source, place in PAGES.items()}


def without_remarks(markdown: str) -> str:
    """Keep of the first lines of fences only the language and the title; the rest is for the tests."""
    return _FENCE.sub(lambda fence: " ".join([fence["start"], *_TITLE.findall(fence["rest"])]), markdown)


def moved(text: str, source: str, place: str) -> str:
    """The text of the file `source` with its links as they must be at `place`."""

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["target"]))
        return f"]({posixpath.relpath(PAGES.get(target, target), posixpath.dirname(place))}"

    return _LINK.sub(link, text)
