"""Build the documentation site: its sources with what is generated, Zensical's pages, and a look through these.

    python .docs/build.py --out site

A page, place or picture that a link names and that is not there fails, and so does what would be loaded from elsewhere.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import api_pages
import benchmarks_page
import notebook_pages
import outside
import repository_pages
import results_page
import saved_pages
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def main() -> int:
    """Build, check, and put the site in its place; one that fails leaves the last one as it was."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="the folder of the site; it is replaced")
    out = parser.parse_args().out.resolve()
    with tempfile.TemporaryDirectory(prefix="iclens-site-") as name:
        folder = Path(name)
        write_sources(folder)
        built = subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", folder / "mkdocs.yml"],
            cwd=folder,
            # Where the Markdown extension of the formulas lies.
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / ".docs"), os.environ.get("PYTHONPATH", "")])},
            check=False,
        )
        if built.returncode:
            return built.returncode
        if found := outside.found(folder / "site"):
            print("loaded from outside the site:\n  " + "\n  ".join(found), file=sys.stderr)
            return 1
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder / "site", out)
    print(f"The site: {out / 'index.html'}")
    return 0


def write_sources(folder: Path) -> None:
    """Write what Zensical reads: the pages of the repository, those that are generated, and the configuration."""
    docs = folder / "docs"
    shutil.copytree(DOCS, docs, ignore=shutil.ignore_patterns("parts"))
    for place, text in (pages() | saved_pages.pages(DOCS)).items():
        (docs / place).parent.mkdir(parents=True, exist_ok=True)
        (docs / place).write_text(text, encoding="utf-8")
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(config(), sort_keys=False, allow_unicode=True), encoding="utf-8")


def pages() -> dict[str, str]:
    """Return the Markdown of every page by its place in docs/."""
    found = repository_pages.pages()
    for file in sorted(DOCS.rglob("*.md")):
        place = file.relative_to(DOCS).as_posix()
        found[place] = repository_pages.moved(file.read_text(encoding="utf-8"), f"docs/{place}", f"docs/{place}")
    for file in sorted(DOCS.rglob("*.ipynb")):
        if (notebook := notebook_pages.page(file)) is not None:
            found[file.relative_to(DOCS).with_suffix(".md").as_posix()] = notebook
    found |= api_pages.pages()
    for place, text in found.items():
        text = results_page.filled(text, DOCS)
        text = benchmarks_page.filled(text, DOCS)
        found[place] = repository_pages.without_remarks(text)
    return found


def config() -> dict[str, Any]:
    """Return the configuration of mkdocs.yml with the API's pages in the navigation and the place of the source."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    settings["nav"] = api_pages.in_navigation(settings["nav"])
    for plugin in settings["plugins"]:
        if isinstance(plugin, dict) and "mkdocstrings" in plugin:
            plugin["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT / "src")]
    return settings


if __name__ == "__main__":
    sys.exit(main())
