"""iclens: a lens and a laboratory for in-context learning.

The output of a softmax-attention head is the test prediction of a dual model f(x) = W φ(x) after one gradient step
whose training examples are the tokens in context (Ren & Liu 2024, Theorem 3.1). `DualModel` is that model; `explain`
reads a whole language model with it.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from iclens.errors import UserError
from iclens.lazy import lazy_names

if TYPE_CHECKING:
    from iclens.absorption import Absorbed, absorb
    from iclens.attention import apply, remove
    from iclens.attribution import attribute
    from iclens.dual import DualModel
    from iclens.lens import Comparison, Explanation, Lens, Prompt, capture, compare, explain, explain_many, load
    from iclens.matching import match
    from iclens.selection import Selection, select
    from iclens.training import RunConfig, train

__version__ = version("iclens")
__all__ = [
    "Absorbed",
    "Comparison",
    "DualModel",
    "Explanation",
    "Lens",
    "Prompt",
    "RunConfig",
    "Selection",
    "UserError",
    "__version__",
    "absorb",
    "apply",
    "attribute",
    "capture",
    "compare",
    "explain",
    "explain_many",
    "load",
    "match",
    "remove",
    "select",
    "train",
]

# On first use: torch and transformers take seconds, and the command line's help needs neither.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "absorption": "Absorbed absorb",
        "attention": "apply remove",
        "attribution": "attribute",
        "dual": "DualModel",
        "lens": "Comparison Explanation Lens Prompt capture compare explain explain_many load",
        "matching": "match",
        "selection": "Selection select",
        "training": "RunConfig train",
    },
)
