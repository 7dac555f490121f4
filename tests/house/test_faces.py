"""What packages export: every name resolves, none is taken by a module, and the documents import nothing deeper."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import iclens

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
PYTHON = re.compile(r"^(?P<indent> *)```python[^\n]*\n(?P<code>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL)

PACKAGES = ["iclens", *(one.name for one in pkgutil.walk_packages(iclens.__path__, "iclens.") if one.ispkg)]
FACES = [name for name in PACKAGES if re.fullmatch(r"iclens(\.\w+|\.papers\.\w+)?", name)]


def modules_of(package):
    return {module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)}


@pytest.mark.parametrize("package", FACES)
def test_every_package_says_what_it_exports_and_each_name_resolves(package):
    module = importlib.import_module(package)
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    # A folder of a paper registers what it holds and may leave it at that.
    assert module.__all__ or package.startswith("iclens.papers")
    assert {name for name in module.__all__ if getattr(module, name, None) is None} == set()
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_bears_the_name_of_what_its_package_exports(package):
    """Else a name that is imported on first use would become the module once that is imported."""
    exported = getattr(importlib.import_module(package), "__all__", ())
    assert modules_of(package) & set(exported) == set()


def test_a_lazy_name_stays_what_it_is_when_every_module_of_its_package_has_been_imported():
    code = """if True:
        import importlib, json, pkgutil
        import iclens
        before = {name: getattr(iclens, name) for name in iclens.__all__}
        for package in (iclens.training, iclens.matching):
            for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
                importlib.import_module(module.name)
        print(json.dumps([name for name, one in before.items() if getattr(iclens, name) is not one]))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_a_name_that_nobody_has_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'iclens\.training' has no attribute 'nothing'"):
        _ = iclens.training.nothing
    with pytest.raises(ImportError):
        exec("from iclens.sweeps import nothing")


def code_of(path):
    """The Python of a page's blocks or a notebook's cells, one text each."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return [match["code"] for match in PYTHON.finditer(text)]


def imported(code):
    """Every (module, name) of iclens that a text imports; the name is None in `import module`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from ((one.name, None) for one in node.names if one.name.split(".")[0] == "iclens")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "iclens":
            yield from ((node.module, one.name) for one in node.names)


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: str(page.relative_to(ROOT)))
def test_documents_import_what_packages_export(page):
    """`iclens`, a package of it or a paper's folder, and only what these export. No page is exempt."""
    wrong = []
    for module, name in (one for code in code_of(page) for one in imported(code)):
        shown = module in FACES or module.count(".") <= 1
        # A module beside the packages, such as `iclens.errors`, exports all that it has.
        exported = getattr(importlib.import_module(module), "__all__", vars(importlib.import_module(module)))
        if not shown or (name is not None and name not in exported):
            wrong.append(f"from {module} import {name}")
    assert wrong == []


def test_the_search_finds_imports():
    assert list(imported("import iclens.bundled\nfrom iclens.a.b import c, d as e\nimport torch")) == [
        ("iclens.bundled", None),
        ("iclens.a.b", "c"),
        ("iclens.a.b", "d"),
    ]
    found = [one for path in [*PAGES, *NOTEBOOKS] for code in code_of(path) for one in imported(code)]
    assert ("iclens", "DualModel") in found
    assert len(found) > 50
