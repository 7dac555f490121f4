"""The published repository of Garg et al. 2022, from a folder: its model, its baselines, and its training step.

It installs only on an old torch and logs to a service; what is timed here is its own code, taken as it stands, without
the logging. Nothing of it is copied into this package.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from iclens.benchmarks.case import Absent
from iclens.benchmarks.peers import GARG, folder

PEER = "the repository of Garg et al."


@dataclass(frozen=True)
class GargRepository:
    """What is used of it.

    Attributes:
        models: the module `models.py`: `TransformerModel`, `LeastSquaresModel`, `NNModel`, `AveragingModel`.
        train_step: the function of `train.py`: (model, xs, ys, optimizer, loss_func) → (loss, output).
    """

    models: ModuleType
    train_step: Callable[..., tuple[float, Any]]


def garg_repository() -> GargRepository | Absent:
    """Return the repository in the folder that `ICLENS_GARG` names, or why it is left out."""
    found = folder(GARG, PEER, "src/models.py")
    if isinstance(found, Absent):
        return found
    source = found / "src"
    with _importing(source):
        spec = importlib.util.spec_from_file_location("garg_models", source / "models.py")
        assert spec is not None
        assert spec.loader is not None
        models = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(models)
        except ImportError as error:
            return Absent(PEER, f"{found} cannot be imported: {error}")
    return GargRepository(models, _function(source / "train.py", "train_step"))


@contextmanager
def _importing(source: Path) -> Iterator[None]:
    """The folder on the path; gradient boosting, which is not compared, may be missing."""
    boosting = "xgboost"
    stands_in = importlib.util.find_spec(boosting) is None
    if stands_in:
        sys.modules[boosting] = ModuleType(boosting)
        # Whoever asks whether it is installed looks for this.
        sys.modules[boosting].__spec__ = importlib.machinery.ModuleSpec(boosting, None)
    before = set(sys.modules)
    sys.path.insert(0, str(source))
    try:
        yield
    finally:
        sys.path.remove(str(source))
        if stands_in:
            del sys.modules[boosting]
        for name in set(sys.modules) - before:
            # Its modules have common names; nobody else is to find them.
            if str(source) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def _function(file: Path, name: str) -> Callable[..., Any]:
    """One function of a file whose other imports (a logger, an argument parser) are not needed for it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    chosen: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module(chosen, []), str(file), "exec"), namespace)
    return namespace[name]
