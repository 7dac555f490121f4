"""The documentation runs: Python blocks and `iclens` command lines, page by page, in an empty folder."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
import sys
import types
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import iclens
from iclens.cli.main import main
from iclens.cli.subcommand import discover
from iclens.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
INDEX = ROOT / "docs" / "index.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```[ ]*$", re.M | re.S)
NO_RUN = re.compile(r"\bno-run\b:?(?P<reason>.*)")
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
SHELL = re.compile(r"[|<>;&`]|\$\(")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line of the page on which the text starts, and whether it runs."""

    language: str
    body: str
    line: int
    skipped: bool


def blocks(text):
    for fence in FENCE.finditer(text):
        info = fence["info"].strip()
        skip = NO_RUN.search(info)
        line = text.count("\n", 0, fence.start("body")) + 1
        assert not skip or skip["reason"].strip(), f"line {line}: no-run without a reason"
        language = re.split(r"[\s:]", info, maxsplit=1)[0]
        yield Block(language, fence["body"], line, bool(skip))


def command_lines(block):
    """The `iclens …` lines of a shell block, as lists of words; what the command printed is not read."""
    lines = [line.strip() for line in block.body.replace("\\\n", " ").splitlines()]
    if any(line.startswith("$ ") for line in lines):
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    for line in lines:
        if line.startswith("iclens "):
            command = line.split(" #")[0]
            assert not SHELL.search(command), f"{command!r} needs a shell: mark the block no-run and say so"
            yield shlex.split(command)[1:]


def run_page(text, name):
    """Run every block of a page in order; the Python blocks share one namespace, that of a module."""
    module = types.ModuleType("__page__")
    sys.modules["__page__"] = module
    try:
        return run_blocks(text, name, vars(module))
    finally:
        del sys.modules["__page__"]


def run_blocks(text, name, namespace):
    ran = 0
    for block in blocks(text):
        if block.skipped:
            continue
        if block.language == "python":
            # Empty lines before the code, so that a traceback gives the line of the page.
            source = "\n" * (block.line - 1) + block.body
            exec(compile(source, name, "exec", dont_inherit=True), namespace)
            ran += 1
        elif block.language in {"bash", "console", "sh", "shell"}:
            for arguments in command_lines(block):
                try:
                    status = main(arguments)
                except SystemExit as end:
                    status = end.code
                shown = shlex.join(["iclens", *arguments])
                assert status in {0, None}, f"{name}:{block.line}: exit status {status}: {shown}"
                ran += 1
    return ran


def registries():
    """Every registry of the package, found in the modules that hold them."""
    for module in pkgutil.walk_packages(iclens.__path__, "iclens."):
        importlib.import_module(module.name)
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "iclens"]
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Registry)}
    return found.values()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The reader of a page has torch as it comes; the tests' own default is float64.
    torch.set_default_dtype(torch.float32)
    # A page may show how to register a thing of one's own; it must not stay.
    discover()
    with ExitStack() as stack:
        for registry in registries():
            stack.enter_context(registry.restored())
        run_page(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))


def there(path):
    """Whether a file is there; pages of notebooks and examples are made of these when the site is built."""
    made_of = {"notebooks": ".ipynb", "examples": ".json"}.get(path.parent.name)
    return path.exists() or (made_of is not None and path.with_suffix(made_of).exists())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = [match["target"].split("#")[0] for match in LINK.finditer(text)]
    broken = [
        target for target in targets if target and not re.match(r"[a-z]+:", target) and not there(page.parent / target)
    ]
    assert broken == []


def linked(page):
    """The pages that a page links to."""
    text = page.read_text(encoding="utf-8")
    return {(page.parent / match["target"].split("#")[0]).resolve() for match in LINK.finditer(text)}


def test_every_page_is_two_links_from_the_index():
    doors = [INDEX, *(ROOT / "docs" / door / "index.md" for door in ("use", "understand", "extend"))]
    assert linked(INDEX) >= set(doors[1:])
    within = set(doors).union(*map(linked, doors))
    missing = [str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md") if page not in within]
    assert missing == []


def test_the_runner_runs_blocks_in_one_namespace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = "```python\nx = 2\n```\ntext\n```python\nassert x == 2\nopen('made', 'w').close()\n```\n"
    assert run_page(page, "page.md") == 2
    assert (tmp_path / "made").exists()


def test_the_runner_fails_with_the_line_of_the_page():
    with pytest.raises(ZeroDivisionError) as error:
        run_page("# title\n\n```python\nx = 1\n1 / 0\n```\n", "page.md")
    assert error.traceback[-1].lineno + 1 == 5


def test_the_runner_runs_commands_and_fails_on_their_status(capsys):
    assert run_page("```console\n$ iclens --version\niclens 0\n```\n", "page.md") == 1
    assert capsys.readouterr().out.startswith("iclens ")
    with pytest.raises(AssertionError, match="exit status 2: iclens --no-such-option"):
        run_page("```bash\niclens --no-such-option  # a remark\n```\n", "page.md")
    with pytest.raises(AssertionError, match="needs a shell"):
        run_page("```bash\niclens --version | head\n```\n", "page.md")


def test_the_runner_leaves_out_only_what_gives_a_reason():
    assert run_page("```python no-run: needs a network\n1 / 0\n```\n", "page.md") == 0
    with pytest.raises(AssertionError, match="no-run without a reason"):
        run_page("```python no-run\n1 / 0\n```\n", "page.md")
