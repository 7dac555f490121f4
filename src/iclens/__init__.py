"""iclens: a lens and a laboratory for in-context learning.

The output of a softmax-attention head is the test prediction of a dual model f(x) = W φ(x) after one gradient step
whose training examples are the tokens in context (Ren & Liu 2024, Theorem 3.1). `DualModel` is that model; `explain`
reads a whole language model with it.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from iclens.errors import UserError

if TYPE_CHECKING:
    from iclens.dual import DualModel
    from iclens.lens.explaining import explain

__version__ = version("iclens")
__all__ = ["DualModel", "UserError", "__version__", "explain"]

# Imported on first use: torch and transformers take seconds, and the command line's help needs neither.
_HOMES = {"DualModel": "iclens.dual", "explain": "iclens.lens.explaining"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'iclens' has no attribute {name!r}")
