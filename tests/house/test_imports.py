"""Importing is cheap, and imports point down."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

HEAVY = ("transformers", "matplotlib", "sklearn", "captum")

PRINT_MODULES = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"

HELP = """
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
"""


def modules_after(code):
    """The top-level modules of a new interpreter that ran `code`."""
    script = f"{code}\n{PRINT_MODULES}"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def seconds(code):
    def once():
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return time.perf_counter() - start

    return statistics.median(once() for _ in range(5))


def test_importing_iclens_imports_nothing_heavy():
    assert modules_after("import iclens").isdisjoint(HEAVY)


def test_the_plumbing_with_transformers_imports_it_only_when_used():
    assert modules_after("import iclens.huggingface").isdisjoint(HEAVY)


def test_public_names_of_iclens_resolve_and_bring_no_transformers_along():
    code = "import iclens\nfor name in getattr(iclens, '__all__', ()): getattr(iclens, name)"
    assert modules_after(code).isdisjoint({"transformers", "matplotlib"})


@pytest.mark.parametrize("package", ["cli", "bundled", "work.cluster", "sweeps", "training", "papers"])
def test_a_package_that_needs_no_torch_imports_none(package):
    assert modules_after(f"import iclens.{package}").isdisjoint({"torch", *HEAVY})


def test_the_packages_of_the_laboratory_import_nothing_heavy():
    """Their names resolve without transformers and matplotlib; scikit-learn is for the estimators that need it."""
    packages = ("training", "sweeps", "tasks", "estimators", "models", "matching", "recipes", "papers", "benchmarks")
    code = "".join(f"from iclens.{package} import *\n" for package in packages)
    assert modules_after(code).isdisjoint(HEAVY)


def test_help_imports_not_even_torch():
    assert modules_after(f"from iclens.cli.main import main\n{HELP}").isdisjoint({"torch", *HEAVY})


@pytest.mark.slow
def test_help_and_import_are_quick():
    assert seconds(f"from iclens.cli.main import main\n{HELP}") < 1.5
    assert seconds("import torch, iclens") - seconds("import torch") < 1.0


def test_imports_point_down():
    command = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])"
    result = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
