"""What no file of the repository may be called or contain, and what must agree between files."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pytest

from iclens.registry import PAPERS

ROOT = Path(__file__).resolve().parents[2]

VAGUE = {"utils", "util", "helpers", "helper", "common", "core", "misc"}

# Written in pieces, so that this file does not contain what it looks for.
REGISTRY_HOSTS = ["py" + "pi.org", "python" + "hosted.org", "download." + "pytorch.org", "conda." + "anaconda.org"]
MACHINE_PATH = re.compile(r"(?<![\w.~}])/(?:wo" + r"rk|ro" + r"ot|ho" + r"me|Us" + r"ers)/\w")


def committable():
    """Every file that git tracks or would add."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [file for file in files if file.is_file()]


def texts():
    for file in committable():
        try:
            yield file.relative_to(ROOT), file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_every_file_is_named_after_an_idea():
    vague = [str(file.relative_to(ROOT)) for file in committable() if VAGUE & {file.stem, file.parent.name}]
    assert vague == []


def test_no_file_names_a_machine_or_a_registry():
    found = [
        f"{file}: {match}"
        for file, text in texts()
        for match in [*MACHINE_PATH.findall(text), *(host for host in REGISTRY_HOSTS if host in text)]
    ]
    assert found == []


def test_the_search_for_machine_paths_finds_one():
    assert MACHINE_PATH.search("see /ho" + "me/someone/x")
    assert MACHINE_PATH.search('"/wo' + 'rk/main"')
    assert not MACHINE_PATH.search("src/work/x, https://host/work/x, /path/to/python")


def test_versions_agree():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert declared == cited.group(1) == version("iclens")


def test_make_targets_that_the_documents_name_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), ROOT / ".ci" / "run"]
    named = {
        (page.name, target)
        for page in pages
        for target in re.findall(r"(?:^|`|\$ )make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert ("README.md", "demo") in named
    assert {pair for pair in named if pair[1] not in targets} == set()


def test_the_readme_counts_the_models_that_can_be_explained():
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    table = page[page.index("## Families that are read") :].split("\n\n")[1]
    rows = [row for row in table.splitlines()[2:] if "encoder" not in row.lower()]
    kinds = [kind for row in rows for kind in re.findall(r"`(\w+)`", row.split("|")[1])]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(\d+) (?:\[)?kinds of open causal models", readme)) == {str(len(kinds))}


def test_the_architecture_page_names_every_extension_point():
    page = (ROOT / "docs" / "architecture.md").read_text()
    sources = [file.read_text() for file in (ROOT / "src" / "iclens").rglob("*.py")]
    groups = {group for text in sources for group in re.findall(r"= Registry\(\s*\"[^\"]+\", \"([^\"]+)\"", text)}
    assert groups
    assert set(re.findall(r"^\| `(iclens\.\w+)`", page, re.MULTILINE)) == groups | {PAPERS}


def test_the_walks_of_the_architecture_page_pass_files_that_exist():
    page = (ROOT / "docs" / "architecture.md").read_text()
    walks = page[page.index("## Three walks") : page.index("## Contracts")]
    named = set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?|\w+\.py)`", walks))
    assert len(named) > 40
    assert {name for name in named if not (ROOT / "src" / "iclens" / name).exists()} == set()


def test_no_folder_holds_more_than_thirty_modules():
    folders = [path.parent for path in (ROOT / "src").rglob("__init__.py")]
    assert {folder.name for folder in folders if len(list(folder.glob("*.py"))) > 31} == set()


def test_the_storeys_of_the_architecture_page_are_those_of_the_contract():
    page = (ROOT / "docs" / "architecture.md").read_text()
    (picture,) = re.findall(r"^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    storeys = [re.findall(r"\w+", line)[1:] for line in picture.splitlines()]
    assert len(storeys) == 6  # five on the ground
    storey_of = {name: place for place, names in enumerate(storeys) for name in names}
    modules = {path.stem for path in (ROOT / "src" / "iclens").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(storey_of) == modules - {"__init__", "__pycache__"}
    rows = page[page.index("| package |") : page.index("Import from a package")].splitlines()
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])} == set(storey_of)

    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [re.findall(r"\w+", line) for line in contract["layers"]]
    assert {name for names in layers for name in names} == set(storey_of)
    for above, below in pairwise(layers):
        assert max(storey_of[name] for name in above) <= min(storey_of[name] for name in below), (above, below)
