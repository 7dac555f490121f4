"""The templates of docs/contributing, put in their places, are registered, keep the contracts and pass their tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "contributing").glob("*.md"))

PACKAGES = ("attention", "tasks", "estimators", "papers")

TEMPLATE = re.compile(r'^```python title="(?P<path>[^"\n]+)"\n(?P<code>.*?)^```$', re.MULTILINE | re.DOTALL)
NAME = re.compile(r'^@(?:[A-Z]+\.register|recipe)\("(?P<name>[\w-]+)"\)', re.MULTILINE)

# Loaded by a test run of the repository, so that the templates' files are found as if they lay in src/iclens.
PLUGIN = """
import importlib
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(trylast=True)
def pytest_configure():
    for folder in (HERE / "src" / "iclens").iterdir():
        package = importlib.import_module(f"iclens.{folder.name}")
        package.__path__.append(str(folder))
"""


def templates():
    """Path and code of every file that the pages show."""
    found = [match for page in PAGES for match in TEMPLATE.finditer(page.read_text(encoding="utf-8"))]
    return {match["path"]: match["code"] for match in found}


def name_in(package):
    """The name under which the template for this package registers."""
    codes = [code for path, code in templates().items() if path.startswith(f"src/iclens/{package}/")]
    (name,) = [match["name"] for code in codes if (match := NAME.search(code))]
    return name


@pytest.fixture(scope="module")
def placed(tmp_path_factory):
    """A folder with the files of all templates in their places."""
    folder = tmp_path_factory.mktemp("placed")
    for path, code in templates().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(code, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def passed(placed):
    """The tests that passed, in one run of the repository's contracts and the templates' own tests."""
    shutil.copy(ROOT / "tests" / "conftest.py", placed / "tests" / "conftest.py")
    (placed / "place_templates.py").write_text(PLUGIN)
    names = [*map(name_in, PACKAGES), *(file.stem for file in placed.glob("tests/**/test_*.py"))]
    contracts = [
        "tests/attention/test_variants.py",
        "tests/tasks/test_tasks.py",
        "tests/estimators/test_laws.py",
        "tests/recipes/test_recipe.py",
    ]
    how = ["-q", "-rA", "-c", "pyproject.toml", "--rootdir", ".", "-p", "place_templates", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *how, *contracts, str(placed / "tests"), "-k", " or ".join(names)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(placed), str(ROOT), str(ROOT / "src")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"^PASSED (.+)$", done.stdout, re.MULTILINE)


def test_each_way_to_extend_has_a_template_and_its_test():
    paths = list(templates())
    for package in PACKAGES:
        sources = [Path(path) for path in paths if path.startswith(f"src/iclens/{package}/")]
        (source,) = [path for path in sources if path.name != "__init__.py"]
        assert str("tests" / source.relative_to("src/iclens").with_name(f"test_{source.name}")) in paths


def test_no_template_has_the_name_of_a_file_of_ours():
    assert [path for path in templates() if (ROOT / path).exists()] == []


@pytest.mark.slow
def test_templates_are_registered_and_keep_the_contracts(passed):
    laws_of_tasks = [node for node in passed if node.startswith("tests/tasks/") and f"[{name_in('tasks')}" in node]
    assert len(laws_of_tasks) >= 8
    assert f"tests/recipes/test_recipe.py::test_every_recipe_is_whole[{name_in('papers')}]" in passed
    laws_of_estimators = [node for node in passed if "/test_laws.py" in node and f"[{name_in('estimators')}]" in node]
    assert len(laws_of_estimators) >= 10
    assert any("test_a_variant_keeps_every_promise" in node and name_in("attention") in node for node in passed)


@pytest.mark.slow
def test_templates_pass_their_own_tests(passed):
    for path, code in templates().items():
        for test in re.findall(r"^def (test_\w+)", code, re.MULTILINE):
            node = f"{path.removeprefix('tests/')}::{test}"
            assert any(found.endswith(node) for found in passed), node


@pytest.mark.parametrize("path", list(templates()))
def test_templates_are_written_as_the_house_writes(path):
    for tool in (["format", "--check", "--diff"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *tool, "--stdin-filename", str(ROOT / path), "-"],
            input=templates()[path],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
