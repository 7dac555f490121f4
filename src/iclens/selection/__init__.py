"""Which demonstrations to keep, drop and mend, and in which order: chosen by effects, decided by real runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iclens.lazy import lazy_names
from iclens.selection.choosing import select
from iclens.selection.examples import Example, read_examples
from iclens.selection.pool import Pool, read_pool
from iclens.selection.search import METHODS, Found, Search
from iclens.selection.selection import Selection

if TYPE_CHECKING:
    from iclens.selection.frameworks.dspy import DSPyTeleprompter
    from iclens.selection.frameworks.langchain import LangChainSelector
    from iclens.selection.frameworks.lm_eval import lm_eval_task

__all__ = [
    "METHODS",
    "DSPyTeleprompter",
    "Example",
    "Found",
    "LangChainSelector",
    "Pool",
    "Search",
    "Selection",
    "lm_eval_task",
    "read_examples",
    "read_pool",
    "select",
]

# On first use: they import frameworks, where these are installed.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "frameworks.dspy": "DSPyTeleprompter",
        "frameworks.langchain": "LangChainSelector",
        "frameworks.lm_eval": "lm_eval_task",
    },
)
