"""The API reference: a page for every package and module directly below `iclens`, found by walking the folder.

The docstrings are read without importing anything.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent.parent / "src" / "iclens"
FOLDER = "api/"


def in_navigation(nav: Any) -> Any:
    """Return the navigation with the pages where it says `api/`."""
    return _filled(nav, [f"{FOLDER}index.md", *({name: f"{FOLDER}{name}.md"} for name in names())])


def pages() -> dict[str, str]:
    """Return the Markdown of the pages by their places."""
    return {f"{FOLDER}index.md": index()} | {f"{FOLDER}{name}.md": page(name) for name in names()}


def names() -> list[str]:
    """The packages and modules directly below `iclens`."""
    found = [path for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    return sorted(path.stem for path in found if not path.stem.startswith("_"))


def page(name: str) -> str:
    """Everything public of one package, module by module; packages within it follow."""
    modules = _modules(SOURCE / name) if (SOURCE / name).is_dir() else [SOURCE / f"{name}.py"]
    parts = [f"# iclens.{name}", summary(name)]
    if exported := exports(name):
        # Optional: a registry without a docstring has no place to lead to.
        shown = ", ".join(
            f'<autoref optional identifier="iclens.{name}.{export}"><code>{export}</code></autoref>'
            for export in exported
        )
        parts.append(f"`from iclens.{name} import` {shown}.")
    for path in modules:
        where = path.relative_to(SOURCE.parent).with_suffix("")
        dotted = ".".join(part for part in where.parts if part != "__init__")
        parts.append(f"::: {dotted}\n    options:\n      show_root_toc_entry: true")
    return "\n\n".join(parts) + "\n"


def index() -> str:
    """All pages with the first line of their docstrings."""
    lines = [f"| [`iclens.{name}`]({name}.md) | {summary(name)} |" for name in names()]
    start = "Every public name, from its docstring. Imports point down: see [the architecture](../architecture.md)."
    return "\n".join(["# API reference", "", start, "", "| package | what it is |", "|---|---|", *lines, ""])


def summary(name: str) -> str:
    """The first line of the docstring of a package or module."""
    path = SOURCE / name / "__init__.py" if (SOURCE / name).is_dir() else SOURCE / f"{name}.py"
    return (_docstring(path) or "").split("\n")[0]


def exports(name: str) -> list[str]:
    """What a package gives to `from iclens.<name> import`."""
    path = SOURCE / name / "__init__.py"
    if not path.exists():
        return []
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    return []


def _modules(package: Path) -> list[Path]:
    """The modules of a package that have anything public, the package itself first."""
    found = sorted(package.rglob("*.py"), key=lambda path: (path.parent, path.stem != "__init__", path.stem))
    private = [path for path in found if any(part.startswith("_") and part != "__init__" for part in _parts(path))]
    return [path for path in found if path not in private and path != package / "__init__.py"]


def _parts(path: Path) -> tuple[str, ...]:
    return path.relative_to(SOURCE).with_suffix("").parts


def _docstring(path: Path) -> str | None:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def _filled(nav: Any, pages: list[Any]) -> Any:
    if isinstance(nav, list):
        return [_filled(item, pages) for item in nav]
    if isinstance(nav, dict):
        return {title: _filled(item, pages) for title, item in nav.items()}
    return pages if nav == FOLDER else nav
