"""The documentation site: every page has its place, what is generated is whole, and nothing comes from elsewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from iclens.work.sealed import is_whole

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\w$\\])\$(?=\S)([^$]+?)(?<=\S)\$", re.DOTALL)


def hook(name):
    """One of the parts of the build of the site, as a module."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / ".docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_of(nav):
    for item in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else []:
        yield from [item] if isinstance(item, str) else pages_of(item)


# Pages and their places


def test_every_page_is_in_the_navigation_once():
    named = sorted(pages_of(CONFIG["nav"]))
    generated = {place.removeprefix("docs/") for place in hook("repository_pages").PAGES.values()} | {"api/"}
    notebooks = {file.relative_to(DOCS).with_suffix(".md").as_posix(): file for file in DOCS.rglob("*.ipynb")}
    generated |= {place for place, file in notebooks.items() if hook("notebook_pages").page(file)}
    assert len(set(named)) == len(named)
    assert set(named) == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} | generated


def test_the_build_uses_every_part_of_the_folder():
    named = set(re.findall(r"^import (\w+)$", (ROOT / ".docs" / "build.py").read_text(encoding="utf-8"), re.MULTILINE))
    parts = {file.stem for file in (ROOT / ".docs").glob("*.py")} - {"build"}
    assert parts - named == {"formulas"}
    assert "formulas" in CONFIG["markdown_extensions"]


def test_pages_of_the_root_keep_their_links():
    moved = hook("repository_pages").moved
    text = "[a](docs/architecture.md#layers) [b](https://example.org/x) [c](CHANGELOG.md) [d](#here)"
    there = "[a](../architecture.md#layers) [b](https://example.org/x) [c](../changelog.md) [d](#here)"
    assert moved(text, "CONTRIBUTING.md", "docs/contributing/index.md") == there
    assert moved("[x](../CONTRIBUTING.md)", "docs/index.md", "docs/index.md") == "[x](contributing/index.md)"


def test_the_api_reference_has_a_page_for_every_package_and_a_place_for_every_module():
    api = hook("api_pages")
    tops = {path.stem for path in (ROOT / "src" / "iclens").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(api.names()) == {name for name in tops if not name.startswith("_")}
    shown = {line.split()[1] for name in api.names() for line in api.page(name).splitlines() if line.startswith(":::")}
    modules = {
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in (ROOT / "src" / "iclens").rglob("*.py")
        if not path.name.startswith("_")
    }
    assert shown >= modules
    assert "iclens" not in shown


def test_fences_have_no_backticks_beside_their_language():
    broken = [
        f"{page.relative_to(ROOT)}: {line}"
        for page in [ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
        for line in re.findall(r"^ *```\w.*$", page.read_text(encoding="utf-8"), re.MULTILINE)
        if "`" in line.strip().lstrip("`")
    ]
    assert broken == []


# Formulas


def test_every_formula_of_the_pages_can_be_written_as_mathml():
    mathml = hook("formulas").mathml
    found = [
        match[1] or match[2]
        for page in sorted(DOCS.rglob("*.md"))
        for match in FORMULA.finditer(re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8"))))
    ]
    assert len(found) > 500
    for latex in found:
        assert mathml(latex.replace(r"\|", "|") if r"\|" in latex and "|" not in latex else latex).startswith("<math")


def test_formulas_have_their_letters_and_words():
    mathml = hook("formulas").mathml
    assert "\N{DOUBLE-STRUCK CAPITAL R}" in mathml(r"\mathbb R")
    assert "\N{MATHEMATICAL DOUBLE-STRUCK CAPITAL E}" in mathml(r"\mathbb E")
    assert "\N{SCRIPT CAPITAL L}" in mathml(r"\mathcal L")
    assert "\N{BLACK-LETTER CAPITAL R}" in mathml(r"\mathfrak R")
    assert "\N{MATHEMATICAL BOLD DIGIT ONE}" in mathml(r"\mathbf 1")
    assert ">softmax<" in mathml(r"\mathrm{softmax}(x)")
    assert mathml("x", block=True).startswith('<div class="formula"><math')


def test_a_formula_that_cannot_be_written_is_named():
    formulas = hook("formulas")
    with pytest.raises(Exception, match="cannot write the formula"):
        formulas.replaced(r'<span class="arithmatex">\(x_\)</span>')


def test_formulas_of_a_page_become_mathml():
    markdown = pytest.importorskip("markdown", reason="Python-Markdown is not installed")
    pytest.importorskip("pymdownx", reason="pymdown-extensions is not installed")
    settings = {"generic": True, "inline_syntax": ["dollar"], "block_syntax": ["dollar"]}
    formulas = hook("formulas").makeExtension()
    html = markdown.markdown(
        "So $x_1 < 2$.\n\n$$y$$\n\n`$z$`",
        extensions=["pymdownx.arithmatex", formulas],
        extension_configs={"pymdownx.arithmatex": settings},
    )
    assert html.count("<math") == 2
    assert html.count('<div class="formula">') == 1
    assert "<code>$z$</code>" in html
    assert "arithmatex" not in html


# Notebooks and examples


def notebook(tmp_path, *cells):
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps({"cells": list(cells)}), encoding="utf-8")
    return path


def test_a_notebook_becomes_a_page_with_its_outputs(tmp_path):
    page = hook("notebook_pages").page
    title = {"cell_type": "markdown", "source": ["# A title\n", "\n", "Words."]}
    code = {"cell_type": "code", "source": ["print(1)"], "outputs": []}
    assert page(notebook(tmp_path, title, code)) is None
    printed = {"output_type": "stream", "text": ["\x1b[1m1\x1b[0m\n"]}
    picture = {"output_type": "display_data", "data": {"image/png": "QUJD\n", "text/plain": "<Figure>"}}
    table = {"output_type": "execute_result", "data": {"text/html": ["<table></table>"], "text/plain": "x"}}
    text = page(notebook(tmp_path, title, code | {"outputs": [printed, picture, table]}))
    assert text.startswith("# A title\n\n[This page as a notebook](one.ipynb)")
    assert "```python\nprint(1)\n```\n\n```text\n1\n```" in text
    assert "](data:image/png;base64,QUJD)" in text
    assert "\n<table></table>\n" in text
    assert "<Figure>" not in text
    with pytest.raises(ValueError, match="ended in an error: no"):
        page(notebook(tmp_path, title, code | {"outputs": [{"output_type": "error", "evalue": "no"}]}))


def test_every_example_is_one_whole_file_and_is_linked():
    loads = hook("outside").loads
    pages = hook("saved_pages").pages(DOCS)
    assert len(pages) == 4
    index = (DOCS / "examples" / "index.md").read_text(encoding="utf-8")
    for place, text in pages.items():
        assert f"({Path(place).name})" in index
        assert loads(text) == []
        assert not re.findall(r"""(?:src|href)=["']?(?!data:|#|https?:)[\w./]+""", text), place
        assert len(text) < 1.5e6
        assert "smollm2" in text


# Results


def planted(folder, outcome="holds", **changes):
    verdict = {
        "outcome": outcome,
        "claim": "W_0 < *W* | [x](y)",
        "numbers": "1.5 [1, 2]",
        "test": "above 1",
        "condition": "",
        "untested": "",
        "source": "a book",
        "trust": "stated",
    }
    document = {
        "recipe": folder.name,
        "title": f"Title of {folder.name}",
        "reference": "A book, chapter 1",
        "preset": "paper",
        "command": f"iclens reproduce {folder.name}",
        "seconds": 12.0,
    }
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(document))
    (folder / "verdicts.json").write_text(json.dumps([verdict | changes]))
    (folder / "index.html").write_text("<title>entry</title>")
    for name in ("figure.svg", "figure-dark.svg"):
        (folder / name).write_text('<svg xmlns="http://www.w3.org/2000/svg"></svg>')


def test_results_show_every_verdict_of_the_gallery(tmp_path):
    gallery = tmp_path / "gallery"
    planted(gallery / "dice")
    planted(gallery / "coin", "holds under", condition="it is fair")
    planted(gallery / "card", "cannot be tested here", untested="no cards", test="", numbers="")
    (gallery / "card" / "figure.svg").unlink()
    (gallery / "unfinished" / "parts").mkdir(parents=True)
    text = hook("results_page").results(tmp_path)
    assert "3 recipes, 3 claims" in text
    assert "| all | 1 | 1 | 1 |" in text
    assert "holds under: it is fair" in text
    assert "no cards" in text
    assert r"W\_0 &lt; \*W\* \| \[x\]\(y\)" in text
    assert "a book (stated by the paper)" in text
    for name in ("card", "coin", "dice"):
        assert f"(gallery/{name}/index.html)" in text
    assert "(gallery/dice/figure.svg#only-light)" in text
    assert "(gallery/dice/figure-dark.svg#only-dark)" in text
    assert "gallery/card/figure" not in text
    assert "gallery-quick" not in text
    planted(tmp_path / "gallery-quick" / "card")
    text = hook("results_page").results(tmp_path)
    assert "gallery-quick/card/figure.svg" in text
    assert "3 recipes, 3 claims" in text
    # Nor has the small one, where its recipe could not be run.
    (tmp_path / "gallery-quick" / "card" / "figure.svg").unlink()
    text = hook("results_page").results(tmp_path)
    assert "(gallery-quick/card/index.html)" in text
    assert "gallery-quick/card/figure" not in text


def test_the_pages_count_the_claims_of_the_gallery():
    verdicts = [json.loads(file.read_text(encoding="utf-8")) for file in (DOCS / "gallery").glob("*/verdicts.json")]
    outcomes = [verdict["outcome"] for recipe in verdicts for verdict in recipe]
    counts = [outcomes.count(one) for one in ("holds", "holds under", "does not hold", "cannot be tested here")]
    index = " ".join((DOCS / "index.md").read_text(encoding="utf-8").split())
    told = re.search(
        r"Of (\d+) claims of papers and of our own, (\d+) hold, (\d+) hold under a condition, (\d+) do not, and (\d+)",
        index,
    )
    assert [int(number) for number in told.groups()] == [len(outcomes), *counts]
    understand = (DOCS / "understand" / "index.md").read_text(encoding="utf-8")
    assert f"{len(verdicts)} studies, {len(outcomes)} claims" in understand


def test_results_of_an_empty_gallery_say_how_to_fill_it(tmp_path):
    text = hook("results_page").results(tmp_path)
    assert "The gallery is empty" in text
    assert "iclens reproduce --all --preset paper --publish docs/gallery" in text


def test_the_page_of_results_has_their_place():
    assert (DOCS / "results.md").read_text(encoding="utf-8").count(hook("results_page").PLACE) == 1


# What was measured


def measured_case(folder, name, reached=True):
    one = {
        "case": name,
        "description": "A planted case.",
        "command": f"iclens bench {name}",
        "measured": "2026-01-01",
        "quick": False,
        "pairs": 3,
        "threads": 1,
        "device": "cpu",
        "environment": {"machine": {"CPU": "a CPU"}, "versions": {}, "load": 0.1, "load_after": 0.2},
        "ceilings": {"operations": {"float32": 1e9}, "bytes": 1e9},
        "seconds": 90.0,
        "results": [
            {
                "kind": "comparison",
                "what": "sums",
                "ours": "ours",
                "other": "theirs",
                "agreements": [{"error": 0.0, "tolerance": 1e-5}],
                "speed_up": {"median": 2.0, "low": 1.5, "high": 3.0, "seconds_ours": 1.0, "seconds_other": 2.0},
                "peak_mib": {"ours": None, "other": None, "share": None},
                "floor": None,
                "targets": [{"quantity": "speed-up", "bound": 1.0, "reason": "", "value": 2.0, "reached": reached}],
            },
            {
                "kind": "table",
                "what": "rows",
                "rows": [{"method": "a"}],
                "verdicts": [{"claim": "It is so.", "holds": False, "numbers": "1 of 2"}],
            },
        ],
    }
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(one))
    (folder / f"{name}-ratios.svg").write_text("<svg/>")


def test_what_was_measured_is_on_the_page_and_what_was_not_is_named(tmp_path):
    measured_case(tmp_path / "bench", "lens", reached=False)
    text = hook("benchmarks_page").measured(tmp_path / "bench")
    assert "| ✗ | [lens](#lens) | sums, against theirs | speed-up ≥ 1.00: MISSED (2.00) |" in text
    assert "| ✗ | [lens](#lens) | It is so. | 1 of 2 |" in text
    assert "| sums | theirs | 2.00 [1.50, 3.00] |" in text
    assert "```bash\niclens bench lens\n```" in text
    assert "(bench/lens-ratios-dark.svg#only-dark)" in text
    assert "lens-curves" not in text
    assert "## scaling\n\nNot measured yet: `iclens bench scaling" in text


def test_the_page_of_benchmarks_has_their_place_and_what_is_published_is_sound():
    page = hook("benchmarks_page")
    assert (DOCS / "measured.md").read_text(encoding="utf-8").count(page.PLACE) == 1
    for file in (DOCS / page.FOLDER).glob("*.json"):
        one = json.loads(file.read_text(encoding="utf-8"))
        assert is_whole(one), file
        assert not one["quick"], file


# Nothing from elsewhere


def test_what_the_browser_would_load_from_elsewhere_is_found():
    loads = hook("outside").loads
    for page in (
        '<script src="https://cdn.example/x.js">',
        "<img alt='a' src=//cdn.example/x.png>",
        '<link rel="stylesheet"\n href="http://cdn.example/x.css">',
        "@import 'https://cdn.example/x.css'",
        "body { background: url(https://cdn.example/x.png) }",
    ):
        assert len(loads(page)) == 1, page
    assert loads('<a href="https://example.org">a paper</a> <svg xmlns="http://www.w3.org/2000/svg">') == []
    assert loads('<img src="figure.svg"> <link href="assets/x.css"> url(data:image/svg+xml,x)') == []


def test_the_theme_loads_no_font_and_no_repository_data():
    assert CONFIG["theme"]["font"] is False
    assert "repo_url" not in CONFIG
    assert "pymdownx.emoji" not in str(CONFIG["markdown_extensions"])


class Addresses(HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in {"href", "src"} and value:
                self.targets.append(value)
            if name in {"id", "name"} and value:
                self.ids.add(value)


@pytest.mark.slow
def test_the_built_site_is_whole(tmp_path):
    """Strictly built: pages, pictures and places within pages that are referred to are there."""
    pytest.importorskip("zensical", reason="the extra docs is not installed")
    done = subprocess.run(
        [sys.executable, ROOT / ".docs" / "build.py", "--out", tmp_path / "site"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
    site = tmp_path / "site"
    pages = {page: Addresses(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    assert len(pages) > 60
    named = [place for place in pages_of(CONFIG["nav"]) if place.endswith(".md")]
    assert [place for place in named if (site / place).with_suffix(".html") not in pages] == []
    assert len(list((site / "api").glob("*.html"))) == len(hook("api_pages").pages())
    assert "arithmatex" not in "".join(page.read_text(encoding="utf-8") for page in (site / "theory").glob("*.html"))
    broken = []
    for page, addresses in pages.items():
        # The views of a saved explanation are names that its own script reads.
        if page.name == "404.html" or (page.parent.name == "examples" and page.name != "index.html"):
            continue
        for target in addresses.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            there = path.exists() and (path not in pages or not parts.fragment or parts.fragment in pages[path].ids)
            if not there and not parts.fragment.startswith("__"):
                broken.append(f"{page.relative_to(site)}: {target}")
    assert broken == []
