"""Pages that lie at the root of the repository, and what the first lines of fences say that is meant for the tests."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent

PAGES = {"CONTRIBUTING.md": "docs/contributing/index.md", "CHANGELOG.md": "docs/changelog.md"}
"""Where the site has them, as if they lay in docs/."""

_FENCE = re.compile(r"^(?P<start> *`{3,}\w+)(?P<rest>[^\n`]*)$", re.MULTILINE)
_TITLE = re.compile(r'\btitle="[^"]*"')
_LINK = re.compile(r"\]\((?!\w+:|#)(?P<target>[^)\s#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for source, place in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, place.removeprefix("docs/"), content=moved(text, source, place)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links to the pages at the root lead to their places; fences keep only the language and the title."""
    markdown = moved(markdown, f"docs/{page.file.src_uri}", f"docs/{page.file.src_uri}")
    return _FENCE.sub(lambda fence: " ".join([fence["start"], *_TITLE.findall(fence["rest"])]), markdown)


def moved(text: str, source: str, place: str) -> str:
    """The text of the file `source` with its links as they must be at `place`."""

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["target"]))
        return f"]({posixpath.relpath(PAGES.get(target, target), posixpath.dirname(place))}"

    return _LINK.sub(link, text)
